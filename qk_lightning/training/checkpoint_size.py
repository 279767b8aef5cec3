"""How many bytes a run's checkpoints take: one that is there, and those that will be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig
from torch import Tensor, nn

from qk_lightning.config.disk_space import warn_if_short
from qk_lightning.config.run_folder import RunFolder

MOMENTS = 2  # of AdamW, of each parameter's own type
EMA_BYTES = 4


def size_of(checkpoint: Any) -> int:
    """Return the bytes of all tensors in a checkpoint.

    Args:
        checkpoint: tensors in dicts and lists, as torch saves them.
    """
    if isinstance(checkpoint, Tensor):
        return checkpoint.numel() * checkpoint.element_size()
    if isinstance(checkpoint, Mapping):
        return sum(map(size_of, checkpoint.values()))
    return sum(map(size_of, checkpoint)) if isinstance(checkpoint, list | tuple) else 0


def expected_size(parts: Mapping[str, nn.Module], has_ema: bool) -> int:
    """Return the bytes that a checkpoint will have: weights that train, moments, average.

    Args:
        parts: part by family, not sharded; they may be on the meta device.
        has_ema: whether an average is kept.
    """
    learns = {p for part in parts.values() for p in part.parameters() if p.requires_grad}
    each = (p.numel() * (p.element_size() * (1 + MOMENTS) + EMA_BYTES * has_ema) for p in learns)
    return sum(each)


def warn_before(run: RunFolder, parts: Mapping[str, nn.Module], cfg: DictConfig, kept: int) -> None:
    """Warn at the start of a run whose disk has no room for its checkpoints.

    Args:
        run: the run's folder; the checkpoints in it will go as new ones come.
        parts: part by family, not sharded.
        cfg: the run's configuration.
        kept: how many checkpoints stay at a time.
    """
    size = expected_size(parts, bool(cfg.ema.decay))
    there = sum(file.stat().st_size for file in run.checkpoint_files())
    count = kept + 1  # a new one is whole before the oldest goes
    what = f"{count} checkpoints of {run.name} ({size:,} bytes each)"
    warn_if_short(run.path, count * size - there, what)
