"""The best checkpoint beside the last ones: `best-step=<n>.ckpt`, by a metric of validation.

What stands on the disk is the truth: a run that is killed and goes on finds the best there, with
its score in it. So a best that was outdone stays until a checkpoint to go on from is as new as
the better one.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from qk_lightning.config.errors import ConfigError, Problem
from qk_lightning.config.resume import mode_of
from qk_lightning.config.run_folder import RunFolder
from qk_lightning.training.checkpoint_record import DamagedCheckpointError, read_whole
from qk_lightning.training.checkpoints import step_of
from qk_lightning.training.ranks import Ranks

KEY = "best"
PATTERN = "best-step=*.ckpt"


class BestCheckpoint(Checkpoint):
    """Keep the step whose validation was best; never what a next stage starts from.

    Args:
        run: the run's folder; the first rank deletes what was outdone.
        metric: as validation logs it.
        ranks: the run's processes.
    """

    def __init__(self, run: RunFolder, metric: str, ranks: Ranks) -> None:
        self.run = run
        self.metric = metric
        self.ranks = ranks
        self._sign = 1.0 if mode_of(metric) == "min" else -1.0
        self._scores: dict[int, float] = {}  # by step, those on the disk
        self._score = math.nan  # of the checkpoint being written

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the best so far; one of a step that is trained again is no longer known."""
        self._scores = self.ranks.from_first(lambda: self._found(trainer.global_step))

    def _found(self, step: int) -> dict[int, float]:
        scores = {}
        for file in self.run.checkpoints.glob(PATTERN):
            try:
                said = read_whole(file).get(KEY, {})
            except DamagedCheckpointError:
                file.rename(file.with_suffix(".damaged"))
                continue
            if step_of(file) > step or said.get("metric") != self.metric:
                file.unlink()
            else:
                scores[step_of(file)] = float(said["score"])
        return scores

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write a checkpoint where this validation is the best.

        Raises:
            ConfigError: validation does not log the metric.
        """
        if self.metric not in trainer.callback_metrics:
            known = sorted(name for name in trainer.callback_metrics if name.startswith("val/"))
            fix = f"choose among: {', '.join(known)}"
            problem = Problem("trainer.keep_best", self.metric, "a metric of validation", fix)
            raise ConfigError(problem)
        # Ranks validate the same samples; the last bits of their means may differ.
        score = self.ranks.from_first(lambda: float(trainer.callback_metrics[self.metric]))
        step = trainer.global_step
        best = min((self._sign * value for value in self._scores.values()), default=math.inf)
        if math.isfinite(score) and self._sign * score < best:
            self._score = score
            trainer.save_checkpoint(self._file(step))
            self._score = math.nan
            self._scores[step] = score
        self._tidy()

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Write the score into the best one."""
        if not math.isnan(self._score):
            checkpoint[KEY] = {"metric": self.metric, "score": self._score}

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the best alone."""
        self._tidy()

    def _tidy(self) -> None:
        """Delete what was outdone and no resume needs: the best of all, and of what is kept."""
        last = self.ranks.from_first(lambda: self.run.last_checkpoint_step)
        kept = set()
        for limit in (last, math.inf):
            if steps := [step for step in self._scores if step <= limit]:
                kept.add(min(steps, key=lambda step: self._sign * self._scores[step]))
        for step in set(self._scores) - kept:
            del self._scores[step]
            if self.ranks.is_first:
                self._file(step).unlink(missing_ok=True)

    def _file(self, step: int) -> Path:
        return self.run.checkpoints / f"best-step={step}.ckpt"
