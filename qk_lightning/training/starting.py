"""Where a run starts from: `resume` against the checkpoints that are there, before weights load.

Nothing is deleted: what a run no longer goes on from is set aside in its folder.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from omegaconf import DictConfig

from qk_lightning.assembly.weights import Entry
from qk_lightning.config.errors import ConfigError, Problem
from qk_lightning.config.resume import (
    ANEW,
    AUTO,
    LATEST,
    as_text,
    file_of,
    is_of,
    nothing_to_resume,
    was_restarted,
)
from qk_lightning.config.run_folder import RunFolder
from qk_lightning.training.checkpoint_record import (
    KEY,
    CheckpointRecord,
    DamagedCheckpointError,
    other_bases,
    read_whole,
)
from qk_lightning.training.checkpoints import latest_checkpoint, step_of
from qk_lightning.training.guard import StepGuard
from qk_lightning.training.idle import IdleParameters
from qk_lightning.training.ranks import Ranks
from qk_lightning.training.seeded_steps import SeededSteps
from qk_lightning.training.spikes import SpikeLog

ASIDE = "set_aside"  # in the run folder: one folder each time, numbered
log = logging.getLogger("qk_lightning")


@dataclass(frozen=True)
class Start:
    """What a run starts from.

    Args:
        entries: where the parts' weights come from.
        checkpoint: the training state, None for none.
    """

    entries: Sequence[Entry]
    checkpoint: Path | None = None


def step_callbacks(run: RunFolder, cfg: DictConfig, start: Start, ranks: Ranks) -> list[Callback]:
    """Make what seeds, guards and records each step, in the order in which they must stand.

    Args:
        run: the run's folder.
        cfg: its configuration.
        start: what it starts from.
        ranks: the run's processes.
    """
    options, clip = cfg.trainer, cfg.optimizer.gradient_clip
    threshold = options.get("spike_threshold")  # an older run has none
    spikes = SpikeLog(run, ranks, threshold, options.get("spike_window", 1))
    return [
        OwnSchedule(run, start.checkpoint),
        SeededSteps(cfg.seed),
        IdleParameters(run, ranks),
        StepGuard(run, ranks, clip, spikes),
        spikes,
        CheckpointRecord(run, start.entries, ranks),
    ]


def starting_checkpoint(
    run: RunFolder, cfg: DictConfig, entries: Sequence[Entry], ranks: Ranks
) -> Path | None:
    """Decide, in the first process for all, what the run starts from; all ranks must call it.

    Args:
        run: the run's folder, whose lock is held.
        cfg: its configuration.
        entries: where the parts' weights come from.
        ranks: the run's processes.

    Returns:
        The checkpoint, None for the beginning.

    Raises:
        ConfigError: `resume` cannot be had, or the checkpoint was trained on another base.
    """
    file, problems = ranks.from_first(lambda: _decided(run, cfg, entries))
    if problems:
        raise ConfigError(problems)
    return file


def _decided(
    run: RunFolder, cfg: DictConfig, entries: Sequence[Entry]
) -> tuple[Path | None, list[Problem]]:
    try:
        file = _chosen(run, AUTO if was_restarted() else as_text(cfg.get("resume", AUTO)), cfg)
        if file is not None:
            check_base(file, read_whole(file).get(KEY, {}), entries, cfg.trainable)
    except ConfigError as error:
        return None, error.problems
    return file, []


def _chosen(run: RunFolder, value: str, cfg: DictConfig) -> Path | None:
    """Return the checkpoint that `resume` asks for, and set aside what is newer than it."""
    if value == ANEW:
        set_aside(run, 0)
        return None
    if value in (AUTO, LATEST):
        newest = latest_checkpoint(run)
        if newest is None and value == LATEST:
            raise ConfigError(nothing_to_resume(run))
        return newest
    file = file_of(cfg)
    assert file is not None
    is_own = is_of(file, run.identity) or run.path in file.resolve().parents
    if not is_own and (newest := latest_checkpoint(run)) is not None:
        return newest  # it started from the other run's, and has come further
    try:
        read_whole(file)
    except DamagedCheckpointError as error:
        problem = Problem("resume", value, f"a whole checkpoint ({error})", "name another one")
        raise ConfigError(problem) from error
    if is_own:
        set_aside(run, step_of(file))
    return file


def check_base(
    file: Path, record: Mapping[str, Any], entries: Sequence[Entry], trainable: Mapping[str, Any]
) -> None:
    """See that a checkpoint was trained on the frozen weights at hand, which are not in it.

    Args:
        file: the checkpoint.
        record: what it says of itself.
        entries: where the parts' weights come from now.
        trainable: how parts are trained.

    Raises:
        ConfigError: naming both fingerprints.
    """
    if differ := other_bases(record, entries, trainable):
        expected = f"the frozen weights that it was trained on; {'; '.join(differ)}"
        fix = "bring those weights back, or begin anew on these: resume=false"
        raise ConfigError(Problem("resume", str(file), expected, fix))


def set_aside(run: RunFolder, step: int) -> Path | None:
    """Move what came after a step out of the way; metrics are copied, as they are cut later.

    Args:
        run: the run's folder.
        step: the last one that stays; 0 for none.

    Returns:
        The folder that holds it now, None where there was nothing.
    """
    files = [file for file in run.checkpoints.glob("*step=*") if not _stays(file, step)]
    others = [run.path / name for name in ("metrics.csv", "spikes.csv")]
    others += [] if step else [run.samples]
    if not files and (step or not any(path.exists() for path in others)):
        return None
    numbers = [int(path.name) for path in (run.path / ASIDE).glob("*") if path.name.isdecimal()]
    folder = run.path / ASIDE / str(max(numbers, default=0) + 1)
    (folder / "checkpoints").mkdir(parents=True)
    for file in files:
        file.rename(folder / "checkpoints" / file.name)
    for path in others:
        if path.is_file():
            shutil.copy2(path, folder)
        elif path.is_dir():
            path.rename(folder / path.name)
    what = f"what came after step {step}" if step else "what was there"
    log.warning("%s begins at step %d: %s is set aside in %s", run.name, step, what, folder)
    return folder


def _stays(file: Path, step: int) -> bool:
    try:
        return step_of(file) <= step
    except ValueError:  # `step=4.damaged` and the like
        return False


class OwnSchedule(Callback):
    """Where a run goes on from another run's checkpoint: its own learning rates, not the other's.

    A checkpoint brings rates, decay and schedule back; what was changed would have no effect.

    Args:
        run: the run's folder.
        checkpoint: what it starts from.
    """

    def __init__(self, run: RunFolder, checkpoint: Path | None) -> None:
        self.is_foreign = checkpoint is not None and not is_of(checkpoint, run.identity)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the optimiser the configuration's options."""
        if not self.is_foreign:
            return
        wanted: Any = pl_module.configure_optimizers()
        schedule: Any = trainer.lr_scheduler_configs[0].scheduler
        fresh: Any = wanted["lr_scheduler"]["scheduler"]
        schedule.base_lrs = list(fresh.base_lrs)
        for group, new, base, factor in zip(
            trainer.optimizers[0].param_groups,
            wanted["optimizer"].param_groups,
            schedule.base_lrs,
            schedule.lr_lambdas,
            strict=True,
        ):
            group |= {key: value for key, value in new.items() if key != "params"}
            group["lr"] = base * factor(schedule.last_epoch)
        schedule._last_lr = [group["lr"] for group in trainer.optimizers[0].param_groups]
