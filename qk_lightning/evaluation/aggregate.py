"""From rows of results to numbers: means with intervals, by task, tag and split.

The interval is a percentile bootstrap over prompts: all pictures of a prompt are drawn together,
and tags are drawn each for itself where their means are averaged. It tells how far other prompts
of the same kind would move the number; how far seeds move it is what a sweep measures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from qk_lightning.evaluation.item import Metric

DRAWS = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval.

    Args:
        value: the mean; what is missing counts as the worst.
        ci_low: lower end of the 95 % interval; None where a group has one prompt only.
        ci_high: upper end.
        num_planned: pictures that should be there.
        num_scored: pictures that were.
        num_missing: the others; each has failed.
    """

    value: float
    ci_low: float | None
    ci_high: float | None
    num_planned: int
    num_scored: int
    num_missing: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)


def column(row: Mapping[str, Any], metric: Metric) -> float | None:
    """Return a row's value: the worst where the picture is missing, None where there is none.

    Args:
        row: a row of results.
        metric: the number that it goes into.
    """
    if not row["scored"]:
        return metric.worst
    if metric.column in ("verdict", "score"):
        return float(row[metric.column])
    value: float | None = row["parts"].get(metric.column)
    return value


def estimate(
    rows: Sequence[Mapping[str, Any]], metric: Metric, with_interval: bool = True
) -> Estimate | None:
    """Compute one number of a suite.

    Args:
        rows: all rows of results.
        metric: the number.
        with_interval: resample too; controls need none.

    Returns:
        The estimate, None where no picture has the metric's column.
    """
    here = [row for row in rows if metric.counts(row) and column(row, metric) is not None]
    scored = sum(row["scored"] for row in here)
    if not here or (metric.column not in ("verdict", "score") and not scored):
        return None
    group_of = grouping(metric)
    groups: dict[str, dict[str, list[float]]] = {}
    for row in here:
        value = column(row, metric)
        assert value is not None
        groups.setdefault(group_of(row), {}).setdefault(row["cluster"], []).append(value)
    low, high = (None, None)
    if with_interval:
        low, high = _interval(list(groups.values()), metric.is_share)
    means = [np.mean(np.concatenate(list(group.values()))) for group in groups.values()]
    return Estimate(float(np.mean(means)), low, high, len(here), scored, len(here) - scored)


def grouping(metric: Metric) -> Callable[[Mapping[str, Any]], str]:
    """Return what names the group of a row whose mean a metric averages with those of others.

    Args:
        metric: the number; one that averages items has one group, "".
    """
    if metric.mean_of == "items":
        return lambda row: ""
    if metric.mean_of == "topic":
        return lambda row: f"{row['world']}/{row['tag'].rpartition('_')[2]}"
    return lambda row: f"{row['world']}/{row[metric.mean_of]}"


def _interval(
    groups: Sequence[Mapping[str, Sequence[float]]], is_share: bool
) -> tuple[float | None, float | None]:
    """Resample; a group with one prompt, or values that are all equal, tell of no spread."""
    values = {value for group in groups for of in group.values() for value in of}
    if any(len(group) < 2 for group in groups):
        return None, None
    if len(values) == 1:
        return _all_equal(values.pop(), groups) if is_share else (None, None)
    rng = np.random.default_rng(0)
    means = np.zeros(DRAWS)
    for group in groups:
        sums = np.array([sum(values) for values in group.values()])
        counts = np.array([len(values) for values in group.values()])
        drawn = rng.integers(len(sums), size=(DRAWS, len(sums)))
        means += sums[drawn].sum(1) / counts[drawn].sum(1) / len(groups)
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    return float(low), float(high)


def _all_equal(
    value: float, groups: Sequence[Mapping[str, Sequence[float]]]
) -> tuple[float | None, float | None]:
    """Give an interval to shares of exactly 0 or 1, which resampling cannot move.

    If all n prompts failed, a true share up to 1 - 0.025^(1/n) could still have given that.
    """
    if value not in (0.0, 1.0):
        return None, None
    reach = 1 - ((1 - CONFIDENCE) / 2) ** (1 / sum(len(group) for group in groups))
    return (0.0, reach) if value == 0.0 else (1 - reach, 1.0)


def summarise_rows(
    rows: Sequence[Mapping[str, Any]], metrics: Sequence[Metric], with_interval: bool = True
) -> dict[str, Estimate]:
    """Compute all numbers of a suite.

    Args:
        rows: all rows of results.
        metrics: the numbers.
        with_interval: resample too.

    Returns:
        Estimates by metric name, those that could be computed.
    """
    found = {metric.name: estimate(rows, metric, with_interval) for metric in metrics}
    return {name: value for name, value in found.items() if value is not None}


def breakdown(rows: Sequence[Mapping[str, Any]], key: str) -> dict[str, dict[str, Any]]:
    """Compute share right and mean score a task, a tag or a split.

    Args:
        rows: all rows of results.
        key: `task`, `tag` or `split`.

    Returns:
        By value of the key: the estimate of `verdict`, and the mean `score`.
    """
    found = {}
    for name in dict.fromkeys(row[key] for row in rows):
        here = [row for row in rows if row[key] == name]
        right = estimate(here, Metric(name, "verdict"))
        assert right is not None
        score = float(np.mean([row["score"] for row in here]))
        found[name] = {**right.to_dict(), "score": score}
    return found
