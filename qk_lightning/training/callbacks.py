"""What watches a run: progress for whoever waits, the status file, and metrics.csv."""

from __future__ import annotations

import math
import time
from argparse import Namespace
from collections.abc import Callable
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from qk_lightning.config.run_folder import RunFolder

Report = Callable[[dict[str, Any]], None]
REPORT_SECONDS = 0.5
STATUS_SECONDS = 5.0
SCORING = "saving and scoring"


class ProgressCallback(Callback):
    """Report steps to a waiting process and to status.json.

    Args:
        run: the run's folder.
        report: called with `step`, `max_steps`, `loss`, `images_per_second`, `seconds_left` and,
            after the last step, `phase`; None for nobody.
        seconds_before: what the run had taken when it was last stopped.
    """

    def __init__(self, run: RunFolder, report: Report | None, seconds_before: float = 0.0) -> None:
        self.run = run
        self.report = report
        self.seconds_before = seconds_before
        self.seconds_per_step = 0.0
        self._begun_at = self._first_step = 0.0
        self._reported_at = self._status_at = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._begun_at = time.perf_counter()
        self._first_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Report at most twice a second."""
        now = time.perf_counter()
        done = trainer.global_step - self._first_step
        if done:
            self.seconds_per_step = (now - self._begun_at) / done
        if not trainer.is_global_zero or now - self._reported_at < REPORT_SECONDS:
            return
        self._reported_at = now
        values = self._values(trainer, outputs)
        if self.report is not None:
            self.report(values)
        if now - self._status_at > STATUS_SECONDS:
            self._status_at = now
            seconds = self.seconds_before + now - self._begun_at  # a kill says nothing later
            self.run.write_status(
                step=values["step"], seconds_per_step=self.seconds_per_step, seconds=seconds
            )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell that the steps are done: scoring the weights takes its time too."""
        if self.report is not None and trainer.is_global_zero:
            step = trainer.global_step
            self.report({"step": step, "max_steps": trainer.max_steps, "phase": SCORING})

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Note how far it came: without a checkpoint nothing else says so."""
        if trainer.is_global_zero and self._begun_at:
            self.run.write_status(step=trainer.global_step)

    def _values(self, trainer: Trainer, outputs: Any) -> dict[str, Any]:
        of_micro_batch = outputs["loss"] if isinstance(outputs, dict) else 0.0
        loss = float(trainer.callback_metrics.get("train/loss", of_micro_batch))
        samples = self.run_batch_size(trainer)
        speed = samples / self.seconds_per_step if self.seconds_per_step else 0.0
        return {
            "step": trainer.global_step,
            "max_steps": trainer.max_steps,
            "loss": loss,
            "images_per_second": speed,
            "seconds_left": (trainer.max_steps - trainer.global_step) * self.seconds_per_step,
        }

    @staticmethod
    def run_batch_size(trainer: Trainer) -> int:
        """Return the samples of one optimiser step."""
        return int(trainer.lightning_module.config.trainer.global_batch_size)


def check_finite(value: float, what: str) -> None:
    """Stop a run that has diverged, so that nothing is built on it.

    Args:
        value: a loss.
        what: names it.

    Raises:
        FloatingPointError: it is not finite.
    """
    if not math.isfinite(value):
        raise FloatingPointError(f"{what} is {value}: lower optimizer.lr, or clip gradients more")


class RunFolderLogger(Logger):
    """Lightning's logger into metrics.csv of the run folder.

    Args:
        run: the run's folder.
    """

    def __init__(self, run: RunFolder) -> None:
        super().__init__()
        self.run = run

    @property
    def name(self) -> str:
        """The run's name."""
        return self.run.name

    @property
    def version(self) -> str:
        """The run's identity."""
        return self.run.identity

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append values; Lightning's own bookkeeping column is left out.

        Args:
            metrics: value by metric.
            step: Lightning's number of the optimiser step: the first one is 0, and 1 here.
        """
        values = {name: value for name, value in metrics.items() if name != "epoch"}
        if values:
            self.run.append_metrics((step or 0) + 1, values)

    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any
    ) -> None:
        """Do nothing: the configuration stands in config.yaml."""
