"""Checkpoints: the last two of a run, written whole, and the newest that can be read."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint

from qk_lightning.config.atomic import aside
from qk_lightning.config.resume import step_in_name
from qk_lightning.config.run_folder import RunFolder
from qk_lightning.training.checkpoint_record import DamagedCheckpointError, read_whole
from qk_lightning.training.checkpoint_size import size_of

KEPT = 2
log = logging.getLogger("qk_lightning")


class AsideCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint beside its place, then rename it.

    Lightning writes to the system's temporary folder and moves: between two file systems that is
    a copy, which a kill cuts short, and a small /tmp is full before the disk is.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write it whole or not at all.

        Args:
            checkpoint: what Lightning collected.
            path: `checkpoints/step=<n>.ckpt`.
            storage_options: not used, as Lightning has it.
        """
        with aside(Path(path), size_of(checkpoint)) as temporary:
            torch.save(checkpoint, temporary)


def checkpoint_callback(run: RunFolder, every: int) -> ModelCheckpoint:
    """Return the callback that writes `checkpoints/step=<n>.ckpt` and keeps the last two.

    Args:
        run: the run's folder.
        every: optimiser steps between checkpoints.
    """
    return ModelCheckpoint(
        dirpath=run.checkpoints,
        filename="{step}",
        monitor="step",
        mode="max",
        save_top_k=KEPT,
        every_n_train_steps=every,
        save_on_train_epoch_end=False,
        enable_version_counter=False,
    )


def latest_checkpoint(run: RunFolder) -> Path | None:
    """Find the newest checkpoint that can be read; a damaged one is passed over with a warning.

    Args:
        run: the run's folder.

    Returns:
        The file, or None where there is none to resume from.
    """
    for file in run.checkpoints.glob(".*step=*.part.ckpt"):  # a kill left it; the lock is ours
        file.unlink()
    for file in run.checkpoint_files():
        try:
            read_whole(file)
        except DamagedCheckpointError as error:
            log.warning("%s cannot be read (%s); the one before it is used", file, error)
            file.rename(file.with_suffix(".damaged"))
            continue
        return file
    return None


def step_of(checkpoint: Path) -> int:
    """Return the optimiser step that a checkpoint was written after.

    Args:
        checkpoint: `step=<n>.ckpt`, `best-step=<n>.ckpt`, or one under another name.

    Raises:
        DamagedCheckpointError: only the file could tell, and it is damaged.
    """
    step = step_in_name(checkpoint)
    return int(read_whole(checkpoint)["global_step"]) if step is None else step


def keep_newest(run: RunFolder, count: int = 1) -> None:
    """Delete all checkpoints but the newest; the best one is none of them and stays.

    Args:
        run: the run's folder.
        count: how many stay; of a finished run one, as nothing resumes from it.
    """
    for file in run.checkpoint_files()[count:]:
        file.unlink()
