"""Rows of one stage against their baselines by one metric: pairs by seed, Holm over the arms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from qk_lightning.sweeps.items import over_items, read_items
from qk_lightning.sweeps.statistics import (
    NOT_TESTED,
    Difference,
    Goal,
    correct,
    paired_difference,
)

if TYPE_CHECKING:
    from qk_lightning.sweeps.results import RunResult

Results = Sequence["RunResult"]
Pairs = list[tuple["RunResult", "RunResult"]]


def compare_rows(
    of_row: Mapping[str, Results], against: Mapping[str, str | None], metric: str, goal: Goal
) -> dict[str, Difference | None]:
    """Compare all rows of a stage by one metric; each comparison counts once among the arms.

    Rows that share their runs up to this stage are one arm, and a row that shares them with its
    baseline is none: nothing was varied yet.

    Args:
        of_row: results of the stage by row.
        against: the row that each is compared with; None where there is none.
        metric: the metric.
        goal: which end of it is better.

    Returns:
        The difference by row; None where there is none.
    """
    found: dict[str, Difference | None] = {}
    arms: dict[tuple[tuple[str, str], ...], list[str]] = {}
    pairs_of: dict[str, Pairs] = {}
    for name, base in against.items():
        here, there = of_row[name], of_row[base] if base else []
        found[name] = paired_difference(by_seed(here, metric), by_seed(there, metric), goal)
        pairs = pairs_of[name] = _pairs(here, there, metric)
        runs = tuple((ours.folder.name, theirs.folder.name) for ours, theirs in pairs)
        if any(ours != theirs for ours, theirs in runs):
            arms.setdefault(runs, []).append(name)
    firsts = {names[0]: one for names in arms.values() if (one := found[names[0]]) is not None}
    judged = dict(zip(firsts, correct(list(firsts.values()), goal), strict=True))
    for names in arms.values():
        if names[0] in judged:
            shown = _with_items(judged[names[0]], pairs_of[names[0]], metric)
            found |= dict.fromkeys(names, shown)
    return found


def by_seed(results: Results, metric: str) -> dict[int, float]:
    """Return the value by seed of those that have it.

    Args:
        results: one row's results of a stage.
        metric: the metric.
    """
    return {item.seed: item.metrics[metric] for item in results if metric in item.metrics}


def _pairs(here: Results, there: Results, metric: str) -> Pairs:
    of_seed = {item.seed: item for item in there if metric in item.metrics}
    return [
        (item, of_seed[item.seed])
        for item in here
        if metric in item.metrics and item.seed in of_seed
    ]


def _with_items(difference: Difference, pairs: Pairs, metric: str) -> Difference:
    if difference.verdict != NOT_TESTED:
        return difference
    items = [
        (read_items(ours.folder.path, metric), read_items(theirs.folder.path, metric))
        for ours, theirs in pairs
    ]
    return over_items(difference, items)
