"""Statistics over seeds: t intervals of a mean and of paired differences to a baseline.

Pure functions of floats. Seeds are few, so every interval is Student's; a pair is two runs that
differ in the swept option alone, with the same seed, data order, noise and sigmas.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Goal = Literal["min", "max"]
CONFIDENCE = 0.95
# Two differences give an interval with 1 degree of freedom, 12.7 standard errors wide each way.
MIN_SEEDS = 3


@dataclass(frozen=True)
class Summary:
    """A mean over seeds, with its t interval.

    Args:
        count: number of values.
        mean: their mean.
        sd: standard deviation with count - 1 in the denominator; None for one value.
        half_width: half the width of the interval; None with fewer than `MIN_SEEDS` values.
    """

    count: int
    mean: float
    sd: float | None
    half_width: float | None

    @property
    def low(self) -> float | None:
        """The interval's lower end, None where there is no interval."""
        return None if self.half_width is None else self.mean - self.half_width

    @property
    def high(self) -> float | None:
        """The interval's upper end, None where there is no interval."""
        return None if self.half_width is None else self.mean + self.half_width


@dataclass(frozen=True)
class Difference:
    """A mean of per-seed differences to a baseline.

    Args:
        summary: the differences' mean and interval.
        p_value: two-sided p value of the paired t test; None where there is no interval.
        verdict: `better`, `worse`, `no difference shown` (the interval holds 0), `not tested` (too
            few seeds), or `not finite`.
    """

    summary: Summary
    p_value: float | None
    verdict: str


def summarise(values: Sequence[float], confidence: float = CONFIDENCE) -> Summary:
    """Summarise values over seeds.

    half width = t(count - 1, (1 + confidence) / 2) * sd / sqrt(count)

    Args:
        values: one value a seed.
        confidence: coverage of the interval, in (0, 1).

    Returns:
        Mean, standard deviation and half width. A value that is not finite makes all of them so.

    Raises:
        ValueError: there is no value.
    """
    count = len(values)
    if count == 0:
        raise ValueError("values: expected at least one value, got none; summarise what was run")
    if not all(math.isfinite(value) for value in values):
        return Summary(count, sum(values) / count, None, None)  # fsum refuses inf - inf
    mean = math.fsum(values) / count
    if count == 1:
        return Summary(count, mean, None, None)
    sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    if count < MIN_SEEDS:
        return Summary(count, mean, sd, None)
    half_width = t_quantile(count - 1, (1 + confidence) / 2) * sd / math.sqrt(count)
    return Summary(count, mean, sd, half_width)


def paired_difference(
    values: Mapping[int, float],
    baseline: Mapping[int, float],
    goal: Goal,
    confidence: float = CONFIDENCE,
) -> Difference | None:
    """Compare one row of a sweep with its baseline, seed by seed.

    difference(seed) = value(seed) - baseline(seed); t test of its mean against 0.

    Args:
        values: value by seed.
        baseline: the baseline's value by seed; seeds in one of the two only are left out.
        goal: whether less (`min`) or more (`max`) of the metric is better.
        confidence: coverage of the interval, in (0, 1).

    Returns:
        The difference with its verdict, or None when no seed is in both.
    """
    seeds = [seed for seed in values if seed in baseline]
    if not seeds:
        return None
    summary = summarise([values[seed] - baseline[seed] for seed in seeds], confidence)
    if not math.isfinite(summary.mean):
        return Difference(summary, None, "not finite")
    if summary.half_width is None:
        return Difference(summary, None, "not tested")
    return Difference(summary, _p_value(summary), _verdict(summary, goal))


def _verdict(summary: Summary, goal: Goal) -> str:
    assert summary.low is not None and summary.high is not None
    if summary.low <= 0 <= summary.high:
        return "no difference shown"
    return "better" if (summary.mean < 0) == (goal == "min") else "worse"


def _p_value(summary: Summary) -> float:
    if not summary.sd:
        return 1.0 if summary.mean == 0 else 0.0
    from scipy.special import stdtr

    t = summary.mean / (summary.sd / math.sqrt(summary.count))
    return float(2 * stdtr(summary.count - 1, -abs(t)))


def t_quantile(degrees: int, probability: float) -> float:
    """Quantile of Student's t distribution.

    Args:
        degrees: degrees of freedom, 1 or more.
        probability: in (0, 1).

    Returns:
        The value below which a share `probability` of the distribution lies.
    """
    from scipy.special import stdtrit

    return float(stdtrit(degrees, probability))
