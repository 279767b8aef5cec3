"""Intervals and paired tests agree with scipy's, and too few seeds give none."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import integrate, stats

from qk_lightning.sweeps.statistics import (
    correct,
    detectable_difference,
    holm,
    paired_difference,
    summarise,
)

SWEEPS = 2000
ARMS = 5


@pytest.mark.parametrize("values", [[1.0, 2.0, 4.0], [0.1, -0.3, 0.25, 0.7, 0.2]])
def test_interval_is_students(values):
    summary = summarise(values)
    low, high = stats.t.interval(0.95, len(values) - 1, summary.mean, stats.sem(values))
    assert summary.low == pytest.approx(low)
    assert summary.high == pytest.approx(high)
    assert summary.sd == pytest.approx(stats.tstd(values))


def test_paired_difference_is_the_paired_t_test():
    values = {0: 0.51, 1: 0.62, 2: 0.40, 3: 0.55}
    baseline = {0: 0.60, 1: 0.66, 2: 0.47, 3: 0.66}
    difference = paired_difference(values, baseline, "min")
    expected = stats.ttest_rel(list(values.values()), list(baseline.values()))
    interval = expected.confidence_interval(0.95)
    assert difference.p_value == pytest.approx(expected.pvalue)
    assert difference.summary.low == pytest.approx(interval.low)
    assert difference.summary.high == pytest.approx(interval.high)
    assert difference.verdict == "better"


def test_pairs_are_by_seed_and_not_by_order():
    shuffled = paired_difference({2: 3.5, 0: 1.0, 1: 2.0}, {0: 2.0, 1: 3.0, 2: 4.0}, "max")
    assert shuffled.summary.mean == pytest.approx(-2.5 / 3)
    assert paired_difference({5: 1.0}, {6: 1.0}, "min") is None


@pytest.mark.parametrize(("goal", "verdict"), [("min", "worse"), ("max", "better")])
def test_verdict_knows_which_end_is_better(goal, verdict):
    difference = paired_difference({0: 2.0, 1: 2.1, 2: 2.2}, {0: 1.0, 1: 1.0, 2: 1.0}, goal)
    assert difference.verdict == verdict


def test_an_interval_that_holds_zero_shows_nothing():
    difference = paired_difference({0: 1.0, 1: 3.0, 2: 2.0}, {0: 2.0, 1: 2.0, 2: 2.0}, "min")
    assert difference.summary.low < 0 < difference.summary.high
    assert difference.verdict == "no difference shown"


def test_two_seeds_give_no_interval():
    difference = paired_difference({0: 1.0, 1: 1.1}, {0: 5.0, 1: 5.0}, "min")
    assert difference.summary.half_width is None
    assert difference.p_value is None
    assert difference.verdict == "not tested"


def test_values_that_are_not_finite_stay_visible():
    summary = summarise([1.0, math.nan, 2.0])
    assert math.isnan(summary.mean)
    assert summary.half_width is None


def test_equal_runs_show_no_difference():
    same = {0: 1.0, 1: 2.0, 2: 3.0}
    difference = paired_difference(same, same, "min")
    assert difference.verdict == "no difference shown"
    assert difference.p_value == 1.0


def test_no_values_is_an_error():
    with pytest.raises(ValueError, match="at least one value"):
        summarise([])


def test_holm_is_the_closed_test_of_bonferroni():
    p_values = [0.01, 0.04, 0.03, 0.005, 0.2, 0.04]
    places = range(len(p_values))
    subsets = [one for size in places for one in itertools.combinations(places, size + 1)]
    for place, adjusted in enumerate(holm(p_values)):
        bounds = [min(1.0, len(one) * min(p_values[at] for at in one))
                  for one in subsets if place in one]  # fmt: skip
        assert adjusted == pytest.approx(max(bounds))
    assert holm([]) == []


@pytest.mark.parametrize(
    ("count", "level", "expected"),  # statsmodels 0.14, TTestPower().solve_power, power 0.8
    [(3, 0.05, 3.26404), (4, 0.05, 2.12795), (5, 0.05, 1.682), (5, 0.01, 2.62897),
     (10, 0.05, 0.996), (10, 0.01, 1.33203)],
)  # fmt: skip
def test_detectable_difference_is_that_of_a_power_analysis(count, level, expected):
    assert detectable_difference(1.0, count, level) == pytest.approx(expected, rel=1e-4)
    assert detectable_difference(0.02, count, level) == pytest.approx(0.02 * expected, rel=1e-4)


@pytest.mark.parametrize(("count", "level"), [(3, 0.05 / 5), (3, 0.05 / 50), (4, 0.01), (8, 0.05)])
def test_detectable_difference_has_its_power_at_corrected_levels(count, level):
    degrees = count - 1
    shift = detectable_difference(1.0, count, level) * math.sqrt(count)
    critical = stats.t.ppf(1 - level / 2, degrees)

    def reached(variance):  # of a mean that is normal, over a chi-squared estimate of its error
        scale = critical * math.sqrt(variance / degrees)
        both = stats.norm.sf(scale - shift) + stats.norm.cdf(-scale - shift)
        return both * stats.chi2.pdf(variance, degrees)

    assert integrate.quad(reached, 0, 80, limit=400)[0] == pytest.approx(0.8, abs=1e-4)


def simulate(rng, effects=(0.0,) * ARMS, seeds=3):
    """One sweep: seeds shift all rows alike, the rows scatter around that; an arm an effect."""
    of_seed = rng.normal(0, 2, seeds)
    rows = of_seed + rng.normal(0, 1, (1 + len(effects), seeds))
    rows[1:] += np.asarray(effects)[:, None]
    base, *arms = [dict(enumerate(row.tolist())) for row in rows]
    return [paired_difference(arm, base, "max") for arm in arms]


@pytest.mark.parametrize("seeds", [3, 5])
def test_intervals_cover_what_they_claim(seeds):
    rng = np.random.default_rng(seeds)
    effect = 0.7
    summaries = [simulate(rng, [effect], seeds)[0].summary for _ in range(SWEEPS)]
    covered = np.mean([one.low <= effect <= one.high for one in summaries])
    assert 0.93 <= covered <= 0.97


def test_identical_arms_are_seldom_called_different():
    rng = np.random.default_rng(1)
    sweeps = [correct(simulate(rng), "max") for _ in range(SWEEPS)]
    called = np.mean([any(one.verdict in ("better", "worse") for one in arms) for arms in sweeps])
    assert called <= 0.06
    alone = np.mean([any(one.p_value < 0.05 for one in arms) for arms in sweeps])
    assert alone > 0.1  # what Holm is for
    assert any(one.borderline for arms in sweeps for one in arms)


def test_a_detectable_difference_is_detected_in_four_of_five_sweeps():
    rng = np.random.default_rng(2)
    size = detectable_difference(math.sqrt(2), 5, 0.05 / ARMS)  # sd of a difference of two rows
    sweeps = [correct(simulate(rng, [size, 0, 0, 0, 0], 5), "max") for _ in range(SWEEPS)]
    found = np.mean([arms[0].verdict == "better" for arms in sweeps])
    assert found == pytest.approx(0.8, abs=0.03)


def test_arms_are_judged_together():
    base = {0: 1.0, 1: 1.0, 2: 1.0}
    clear = paired_difference({0: 2.0, 1: 2.01, 2: 2.02}, base, "max")
    near = paired_difference({0: 1.5, 1: 1.9, 2: 1.7}, base, "max")
    untested = paired_difference({0: 2.0}, base, "max")
    assert near.verdict == "better"
    assert near.p_value == pytest.approx(0.02615, abs=1e-5)
    together = correct([near, clear, untested, near], "max")
    assert [one.verdict for one in together] == [
        "no difference shown", "better", "not tested", "no difference shown"
    ]  # fmt: skip
    first, second, third, _ = together
    assert first.borderline
    assert not second.borderline
    assert third == untested
    assert first.arms == 3
    assert first.adjusted_p == pytest.approx(2 * near.p_value)
    assert first.detectable > near.detectable
