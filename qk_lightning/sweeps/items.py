"""Intervals over items: what two runs of a seed drew for the same prompts, held side by side.

With fewer than 3 seeds nothing tells how far seeds differ. What can be said is how far other
prompts would move the difference between just these runs; such intervals are named for it.
Scores are read from `evaluations/final/<suite>/`: results.jsonl has a row a picture, summary.json
the rule of each metric (runs that are older than the rules have no such interval).
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from qk_lightning.evaluation.levels import EVALUATIONS, FINAL, SUMMARY
from qk_lightning.sweeps.statistics import (
    CONFIDENCE,
    MIN_SEEDS,
    NOT_TESTED,
    Difference,
    t_quantile,
)

RESULTS = "results.jsonl"
Key = tuple[str, int]  # item, sample
Sums = tuple[float, int]  # of a prompt: sum of its values, how many


@dataclass(frozen=True)
class ItemScore:
    """What one picture counts in a metric.

    Args:
        value: its value; the worst one where the picture is missing.
        group: the group whose mean is averaged with those of others; "" where there is one.
        cluster: what belongs together: all pictures of a prompt.
    """

    value: float
    group: str
    cluster: str


def read_items(run: Path, metric: str) -> dict[Key, ItemScore]:
    """Read what each picture of a run counts in a metric.

    Args:
        run: the run's folder.
        metric: `eval/<suite>/<name>`.

    Returns:
        The scores by item and sample; {} where the metric has none, as a loss.
    """
    kind, _, rest = metric.partition("/")
    folder = run / EVALUATIONS / FINAL / rest.partition("/")[0]
    files = (folder / SUMMARY, folder / RESULTS)
    if kind != "eval" or not all(file.is_file() for file in files):
        return {}
    stamps = tuple(file.stat().st_mtime_ns for file in files)
    return _read(folder, metric, stamps)


@functools.lru_cache(maxsize=256)
def _read(folder: Path, metric: str, stamps: tuple[int, ...]) -> dict[Key, ItemScore]:
    from qk_lightning.evaluation.aggregate import column, grouping
    from qk_lightning.evaluation.item import Metric

    summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    given = summary["metrics"].get(metric, {}).get("rule")
    if given is None or set(given) != {item.name for item in fields(Metric)}:
        return {}
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in given.items()
    }
    rule = Metric(**values)
    group_of, scores = grouping(rule), {}
    for line in (folder / RESULTS).read_text(encoding="utf-8").splitlines():
        row: dict[str, Any] = json.loads(line)
        value = column(row, rule) if rule.counts(row) else None
        if value is not None:
            scores[row["id"], row["sample"]] = ItemScore(value, group_of(row), row["cluster"])
    return scores


def over_items(
    difference: Difference, pairs: Sequence[tuple[Mapping[Key, ItemScore], Mapping[Key, ItemScore]]]
) -> Difference:
    """Give a difference of too few seeds an interval over items, paired by item.

    Of several seeds the difference of an item is the mean over them. There is no verdict: a
    training with another seed may differ by more than other prompts do.

    Args:
        difference: of fewer than 3 seeds.
        pairs: item scores of the row and of its baseline, a pair a seed.

    Returns:
        The difference with its interval; unchanged where the items' scores are not there, or are
        of different items.
    """
    if difference.verdict != NOT_TESTED or not _same_items(pairs):
        return difference
    groups: dict[str, dict[str, Sums]] = {}
    for key, score in pairs[0][0].items():
        apart = math.fsum(row[key].value - base[key].value for row, base in pairs) / len(pairs)
        clusters = groups.setdefault(score.group, {})
        total, count = clusters.get(score.cluster, (0.0, 0))
        clusters[score.cluster] = (total + apart, count + 1)
    half_width = half_width_over_items([list(group.values()) for group in groups.values()])
    if half_width is None:
        return difference
    name = name_of(len(pairs))
    summary = replace(difference.summary, half_width=half_width)
    return replace(difference, summary=summary, verdict=name, basis=name)


def name_of(seeds: int) -> str:
    """Name an interval over items.

    Args:
        seeds: how many runs of each row were averaged, fewer than 3.
    """
    assert seeds < MIN_SEEDS
    return "items, one seed" if seeds == 1 else f"items, {seeds} seeds"


def half_width_over_items(
    groups: Sequence[Sequence[Sums]], confidence: float = CONFIDENCE
) -> float | None:
    """Return half the width of a t interval over prompts, for a mean of groups' means.

    Of a group with n prompts, sums s and counts c: mean m = sum(s) / sum(c), variance of the mean
    v = n / (n - 1) * sum((s - m * c)^2) / sum(c)^2, so pictures of one prompt count together. The
    mean of G groups has the variance sum(v) / G^2 and Satterthwaite's degrees of freedom.

    Args:
        groups: sum and count of each prompt's values, by group.
        confidence: coverage of the interval, in (0, 1).

    Returns:
        Half the width; None where a group has one prompt only, or nothing varies.
    """
    if not groups or any(len(group) < 2 for group in groups):
        return None
    variances = [_variance_of_mean(group) / len(groups) ** 2 for group in groups]
    total = math.fsum(variances)
    if not total > 0 or not math.isfinite(total):
        return None
    spread = [v**2 / (len(group) - 1) for v, group in zip(variances, groups, strict=True)]
    degrees = total**2 / math.fsum(spread)
    return t_quantile(degrees, (1 + confidence) / 2) * math.sqrt(total)


def _variance_of_mean(group: Sequence[Sums]) -> float:
    count = sum(size for _, size in group)
    mean = math.fsum(total for total, _ in group) / count
    squares = math.fsum((total - mean * size) ** 2 for total, size in group)
    return len(group) / (len(group) - 1) * squares / count**2


def _same_items(
    pairs: Sequence[tuple[Mapping[Key, ItemScore], Mapping[Key, ItemScore]]],
) -> bool:
    keys = {frozenset(scores) for pair in pairs for scores in pair}
    return len(keys) == 1 and bool(next(iter(keys)))
