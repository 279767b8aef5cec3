"""Asked to stop while a run trains: the running step ends and is kept, then training stops.

Between two optimiser steps alone is a training state whole: within one, gradients of some
micro-batches are summed and those of others are not. Ranks agree after each step whether one of
them was asked, so that all keep the same step.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from qk_lightning.config.run_folder import RunFolder
from qk_lightning.config.stop_signals import STOP_SIGNALS, remember
from qk_lightning.training.ranks import Ranks

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
        ranks: the run's processes; a signal to any of them stops all.
    """

    def __init__(self, run: RunFolder, ranks: Ranks) -> None:
        self.run = run
        self.ranks = ranks
        self._before: dict[signal.Signals, Any] = {}
        self._process = os.getpid()
        self._asked = 0  # the signal that came to this process
        self._agreed = 0  # one that came to any rank
        self._step = 0
        self._kept_step = -1

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take over the signals, and leave Lightning none.

        Its handler of SIGTERM starts a collective in the middle of whatever this rank does, and
        it asks the first rank, on the device and before every micro-batch, whether it has come.
        """
        trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
        if threading.current_thread() is not threading.main_thread():
            return
        for number in STOP_SIGNALS:
            handler = signal.getsignal(number)
            if handler not in (signal.SIG_IGN, None) and number not in self._before:
                self._before[number] = handler
                signal.signal(number, self._ask)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin no step where somebody has asked by now.

        Raises:
            KeyboardInterrupt: somebody has.
        """
        self._step = trainer.global_step
        if self._agree():
            raise KeyboardInterrupt

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the state where this was the last micro-batch of a step."""
        is_between = trainer.global_step > self._step
        self._step = trainer.global_step
        if is_between and self._agree():
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
        if self._agree():
            if self._kept_step != trainer.global_step:
                self._keep(trainer)
            raise KeyboardInterrupt

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give back the signals of a run that was resumed at its last step, and trained none.

        Raises:
            KeyboardInterrupt: somebody has asked meanwhile.
        """
        self._give_back()
        if self._agree():
            raise KeyboardInterrupt

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Leave the signals as they were."""
        self._give_back()

    def _agree(self) -> int:
        """Return a signal that came to any rank, 0 where none did; all ranks must call it."""
        self._agreed = self._agreed or self.ranks.largest(self._asked)
        if self._agreed:
            remember(self._agreed)
        return self._agreed

    def _keep(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(self.run.checkpoints / f"step={trainer.global_step}.ckpt")
        self._kept_step = trainer.global_step

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # a process that loads data: its rank ends it
        if not self._asked:
            os.write(STDERR, SAID)  # a stream may be in use where the signal came
        self._asked = max(self._asked, number)
        # Schedulers send SIGTERM to every process, and a sweep to its members again.
        if signal.SIGINT in self._before:
            signal.signal(signal.SIGINT, self._before.pop(signal.SIGINT))

    def _give_back(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
