"""Ctrl-C while a run trains: the running optimiser step ends and is kept, then training stops.

Between two optimiser steps alone is a training state whole: within one, gradients of some
micro-batches are summed and those of others are not.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from qk_lightning.config.run_folder import RunFolder

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SAID = b"\nstopping once this step is done and kept; Ctrl-C again stops at once\n"
STDERR = 2


class StopBetweenSteps(Callback):
    """On the first signal write `checkpoints/step=<n>.ckpt` after the running step, then stop.

    The checkpoint is written where those of `trainer.checkpoint_every` are, after the averaging;
    training stops before the next step, so that the step's metrics and a validation that is due
    are there. A second Ctrl-C does at once what a first would do without this. Signals that are
    ignored (`nohup`) stay so, and outside the main thread nothing is set.

    Args:
        run: the run's folder.
    """

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self._before: dict[signal.Signals, Any] = {}
        self._asked = False
        self._step = 0
        self._kept_step = -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over the signals; what Lightning would do with SIGTERM may cut a step short."""
        self._step = trainer.global_step
        if threading.current_thread() is not threading.main_thread():
            return
        for number in SIGNALS:
            if callable(handler := signal.getsignal(number)):
                self._before[number] = handler
                signal.signal(number, self._ask)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the state where this was the last micro-batch of a step."""
        is_between = trainer.global_step > self._step
        self._step = trainer.global_step
        if self._asked and is_between:
            self._keep(trainer)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Stop before the next step.

        Raises:
            KeyboardInterrupt: the last step was kept.
        """
        if self._kept_step == trainer.global_step:
            raise KeyboardInterrupt

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop before the weights are scored, where the signal came in the last step.

        Raises:
            KeyboardInterrupt: it did.
        """
        self._give_back()
        if self._asked:
            if self._kept_step != trainer.global_step:
                self._keep(trainer)
            raise KeyboardInterrupt

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Leave the signals as they were."""
        self._give_back()

    def _keep(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(self.run.checkpoints / f"step={trainer.global_step}.ckpt")
        self._kept_step = trainer.global_step

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if not self._asked:
            os.write(STDERR, SAID)  # a stream may be in use where the signal came
        self._asked = True
        # Schedulers send SIGTERM to every process, and a sweep to its members again.
        if signal.SIGINT in self._before:
            signal.signal(signal.SIGINT, self._before.pop(signal.SIGINT))

    def _give_back(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
