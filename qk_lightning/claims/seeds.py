"""Seeds of the user's that claims are tested with in place of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qk_lightning.config.errors import ConfigError, Problem
from qk_lightning.sweeps.statistics import MIN_SEEDS

MAX_SEED = 10**9


def read_seeds(text: str) -> tuple[int, ...]:
    """Read the seeds that claims are tested with in place of their own.

    Args:
        text: whole numbers with commas between them.

    Raises:
        ConfigError: they are not, one is there twice, or there are too few for an interval.
    """
    parts = [part.strip() for part in text.split(",")]
    return check_seeds([int(part) if part.isdecimal() else part for part in parts])


def check_seeds(seeds: Sequence[Any]) -> tuple[int, ...]:
    """Check the seeds that claims are tested with in place of their own.

    Args:
        seeds: the seeds.

    Raises:
        ConfigError: they are no whole numbers, one is there twice, or there are too few.
    """
    right = [seed for seed in seeds if type(seed) is int and 0 <= seed < MAX_SEED]
    if len(set(right)) != len(seeds) or len(seeds) < MIN_SEEDS:
        expected = f"{MIN_SEEDS} different whole numbers or more, of at most 9 digits"
        raise ConfigError(Problem("seeds", list(seeds), expected, "write --seeds 10,11,12"))
    return tuple(right)
