"""Statistics over seeds: t intervals, paired differences to a baseline, Holm over a sweep's arms.

Pure functions of floats. Seeds are few, so every interval is Student's; a pair is two runs that
differ in the swept option alone, with the same seed, data order, noise and sigmas. Intervals over
the items of one seed are in items.py.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

Goal = Literal["min", "max"]
CONFIDENCE = 0.95
POWER = 0.8
NOTHING_SHOWN = "no difference shown"
NOT_TESTED = "not tested"
NOT_FINITE = "not finite"
SEEDS = "seeds"
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
    """A mean of per-seed differences to a baseline, and what it shows.

    Args:
        summary: the differences' mean and interval.
        p_value: two-sided p value of the paired t test; None where there is no test.
        verdict: `better` or `worse` (the adjusted p value is below 0.05), `no difference shown`,
            `not tested` (too few seeds), `not finite`, or what `basis` says.
        adjusted_p: Holm's p value over the arms that were tested together.
        arms: how many those are.
        detectable: the smallest true difference that would have been shown with 80 % power;
            None where there is no test.
        basis: what the interval is over: `seeds`, or the items of too few seeds (items.py).
    """

    summary: Summary
    p_value: float | None
    verdict: str
    adjusted_p: float | None = None
    arms: int = 1
    detectable: float | None = None
    basis: str = SEEDS

    @property
    def borderline(self) -> bool:
        """Whether its own interval leaves 0 out, and Holm's correction does not follow it."""
        low, high = self.summary.low, self.summary.high
        if self.verdict != NOTHING_SHOWN or low is None or high is None:
            return False
        return not low <= 0 <= high


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
        return Difference(summary, None, NOT_FINITE)
    if summary.half_width is None:
        return Difference(summary, None, NOT_TESTED)
    p_value = _p_value(summary)
    return _judged(Difference(summary, p_value, ""), p_value, 1, goal, 1 - confidence)


def correct(
    differences: Sequence[Difference], goal: Goal, confidence: float = CONFIDENCE
) -> list[Difference]:
    """Judge the arms of one metric and stage together, by Holm's p values.

    The chance that any of them is called different while none is stays below 1 - confidence.
    Intervals stay those of each arm alone; an arm whose interval leaves 0 out though its adjusted
    p value shows nothing is `borderline`. The smallest difference that could have been shown is
    that of the first step of Holm's procedure, at (1 - confidence) / arms.

    Args:
        differences: the arms, each comparison once; those without a p value stay as they are.
        goal: whether less (`min`) or more (`max`) of the metric is better.
        confidence: 1 - the family-wise error, in (0, 1).

    Returns:
        The differences with verdict, adjusted p value and detectable difference.

    Source: Holm, Scandinavian Journal of Statistics 6 (1979).
    """
    tested = [one.p_value for one in differences if one.p_value is not None]
    adjusted = iter(holm(tested))
    return [
        one
        if one.p_value is None
        else _judged(one, next(adjusted), len(tested), goal, 1 - confidence)
        for one in differences
    ]


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p values for being several, by Holm's step-down procedure.

    Of m sorted p values: adjusted(i) = max over j <= i of min(1, (m - j + 1) * p(j)).

    Args:
        p_values: in [0, 1].

    Returns:
        The adjusted ones in the given order.
    """
    adjusted = [0.0] * len(p_values)
    reached = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda at: p_values[at])):
        reached = max(reached, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = reached
    return adjusted


def detectable_difference(
    sd: float, count: int, level: float = 1 - CONFIDENCE, power: float = POWER
) -> float:
    """Return the smallest true difference that a paired t test would show.

    With d the difference, t = mean / (sd / sqrt(n)) has a noncentral t distribution with n - 1
    degrees of freedom and noncentrality d * sqrt(n) / sd; the d is returned for which |t| exceeds
    its critical value with the probability `power`. `sd` is itself estimated from few seeds, so
    this is an order of magnitude and not a promise.

    Args:
        sd: standard deviation of the per-seed differences.
        count: seeds, 2 or more.
        level: of the two-sided test, in (0, 1).
        power: in (0.5, 1).

    Returns:
        The difference, 0 or more, in the metric's unit.
    """
    return _noncentrality(count - 1, level, power) * sd / math.sqrt(count)


@functools.lru_cache(maxsize=1024)
def _noncentrality(degrees: int, level: float, power: float) -> float:
    """Solve power = P(t > critical) for the noncentrality; the far tail is below 1e-3 of it."""
    from scipy.special import nctdtrinc

    return float(nctdtrinc(degrees, 1 - power, t_quantile(degrees, 1 - level / 2)))


def _judged(one: Difference, adjusted: float, arms: int, goal: Goal, level: float) -> Difference:
    summary = one.summary
    assert summary.sd is not None
    verdict = NOTHING_SHOWN
    if adjusted < level:
        verdict = "better" if (summary.mean < 0) == (goal == "min") else "worse"
    detectable = detectable_difference(summary.sd, summary.count, level / arms)
    return replace(one, verdict=verdict, adjusted_p=adjusted, arms=arms, detectable=detectable)


def _p_value(summary: Summary) -> float:
    if not summary.sd:
        return 1.0 if summary.mean == 0 else 0.0
    from scipy.special import stdtr

    t = summary.mean / (summary.sd / math.sqrt(summary.count))
    return float(2 * stdtr(summary.count - 1, -abs(t)))


@functools.lru_cache(maxsize=1024)
def t_quantile(degrees: float, probability: float) -> float:
    """Quantile of Student's t distribution.

    Args:
        degrees: degrees of freedom, 1 or more.
        probability: in (0, 1).

    Returns:
        The value below which a share `probability` of the distribution lies.
    """
    from scipy.special import stdtrit

    return float(stdtrit(degrees, probability))
