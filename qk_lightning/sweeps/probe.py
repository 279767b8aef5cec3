"""A search looked at beforehand: rows with every choice and both ends of every range, planned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from qk_lightning.config.errors import ConfigError, Problem
from qk_lightning.sweeps.file import SweepFile
from qk_lightning.sweeps.space import corners
from qk_lightning.sweeps.trials import row_of

if TYPE_CHECKING:
    from qk_lightning.sweeps.plan import Member


def plan_probe(
    file: SweepFile, plan: Callable[[SweepFile], tuple[Member, ...]]
) -> tuple[Member, ...]:
    """Plan the ends of a search's ranges and its choices, to find mistakes before any training.

    Args:
        file: a sweep; nothing is planned of one without a search.
        plan: plans a sweep's members.

    Returns:
        Members of the first seed.

    Raises:
        ConfigError: with everything that is wrong; among others losses that do not compare, and
            a pruner that would see none.
    """
    if file.search is None:
        return ()
    rows = tuple(row_of(values, n) for n, values in enumerate(corners(file.space)))
    probe = replace(file, axes={}, listed=rows, baseline=rows[0].name, seeds=file.seeds[:1])
    members = plan(probe)
    last = members[0].chain[-1].cfg
    validation = last.get("validation")
    if file.search.pruner != "none" and validation is not None and not validation.every:
        fix = f"add `{last.stage}.validation.every=10` to `overrides:`, or set `pruner: none`"
        expected = "validation while it trains, for the pruner to see"
        raise ConfigError(Problem("validation.every", 0, expected, fix))
    return members
