"""What measured values say of a claim. Pure functions of numbers.

A comparison is judged by Student's interval over per-seed differences, as a sweep's rows are;
several comparisons of one claim are corrected by Holm, and all of them must hold.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from qk_lightning.claims.file import Comparison
from qk_lightning.sweeps.statistics import (
    CONFIDENCE,
    MIN_SEEDS,
    Difference,
    Summary,
    correct,
    paired_difference,
    summarise,
)

Verdict = Literal["supported", "contradicted", "not shown", "not run"]
SUPPORTED: Verdict = "supported"
CONTRADICTED: Verdict = "contradicted"
NOT_SHOWN: Verdict = "not shown"
NOT_RUN: Verdict = "not run"
VERDICTS = (SUPPORTED, CONTRADICTED, NOT_SHOWN, NOT_RUN)
BySeed = Mapping[int, float]


@dataclass(frozen=True)
class Outcome:
    """A comparison with what was measured.

    Args:
        comparison: what was expected.
        arm: the arm's values over seeds; None where nothing was measured.
        other: the other arm's; None for `above`, or where nothing was measured.
        difference: mean over seeds of arm - other (or arm - value) with its interval, in the
            metric's own unit; None where no seed has both.
        adjusted_p: Holm's p value against the edge of the claim; None where there is no test.
        detectable: the smallest distance from that edge that would have been shown with 80 %
            power, in the metric's unit; None where there is no test.
        verdict: what that says.
    """

    comparison: Comparison
    arm: Summary | None
    other: Summary | None
    difference: Summary | None
    adjusted_p: float | None
    detectable: float | None
    verdict: Verdict


def judge(
    comparisons: Sequence[Comparison],
    values: Mapping[tuple[str, str], BySeed],
    num_seeds: int = MIN_SEEDS,
) -> list[Outcome]:
    """Judge the comparisons of one claim together.

    For each, the distance to the edge of what is claimed is taken seed by seed, positive on the
    claimed side:
        distance(seed) = s * (arm(seed) - other(seed)) + by
    with s = 1 where more of the metric is better and -1 where less is, `by` the margin of
    `no_worse_than` (else 0), and the constant of `above` in the other arm's place. Supported: the
    t test of its mean against 0, corrected by Holm over the claim's comparisons, puts it above 0;
    contradicted: below.

    Args:
        comparisons: what is expected.
        values: value by seed, by (arm, metric); what was not measured is missing.
        num_seeds: seeds that must have both values; with fewer the comparison was not run.

    Returns:
        An outcome for each comparison.
    """
    distances = [_distance(one, values) for one in comparisons]
    tested = [
        distance
        if distance is not None and distance.summary.count >= max(num_seeds, MIN_SEEDS)
        else None
        for distance in distances
    ]
    corrected = iter(correct([one for one in tested if one is not None], "max"))
    return [
        _outcome(one, values, distance, next(corrected) if test is not None else None)
        for one, distance, test in zip(comparisons, distances, tested, strict=True)
    ]


def verdict_of(outcomes: Sequence[Outcome]) -> Verdict:
    """Sum up a claim: all of it must hold.

    Args:
        outcomes: its comparisons.

    Returns:
        `not run` where one was not, else `contradicted` where one is, `supported` where all are.
    """
    found = {outcome.verdict for outcome in outcomes}
    if not found or NOT_RUN in found:
        return NOT_RUN
    if CONTRADICTED in found:
        return CONTRADICTED
    return SUPPORTED if found == {SUPPORTED} else NOT_SHOWN


def _sign(one: Comparison) -> int:
    return 1 if one.goal == "max" else -1


def _other_values(one: Comparison, values: Mapping[tuple[str, str], BySeed]) -> BySeed:
    if one.kind == "above":
        return dict.fromkeys(values.get((one.arm, one.metric), {}), one.value)
    return values.get((one.other, one.metric), {})


def _distance(
    one: Comparison, values: Mapping[tuple[str, str], BySeed]
) -> Difference | None:  # fmt: skip
    arm, other, sign = values.get((one.arm, one.metric), {}), _other_values(one, values), _sign(one)
    ours = {seed: sign * value + one.by for seed, value in arm.items()}
    return paired_difference(ours, {seed: sign * value for seed, value in other.items()}, "max")


def _outcome(
    one: Comparison,
    values: Mapping[tuple[str, str], BySeed],
    distance: Difference | None,
    tested: Difference | None,
) -> Outcome:
    arm, other = values.get((one.arm, one.metric), {}), _other_values(one, values)
    between = [arm[seed] - other[seed] for seed in arm if seed in other]
    return Outcome(
        comparison=one,
        arm=summarise(list(arm.values())) if arm else None,
        other=summarise(list(other.values())) if other and one.kind != "above" else None,
        difference=summarise(between) if distance is not None else None,
        adjusted_p=tested.adjusted_p if tested else None,
        detectable=tested.detectable if tested else None,
        verdict=_verdict(tested),
    )


def _verdict(tested: Difference | None) -> Verdict:
    if tested is None:
        return NOT_RUN
    if not math.isfinite(tested.summary.mean) or tested.adjusted_p is None:
        return NOT_SHOWN  # a run that diverged shows nothing
    if tested.adjusted_p >= 1 - CONFIDENCE:
        return NOT_SHOWN
    return SUPPORTED if tested.summary.mean > 0 else CONTRADICTED
