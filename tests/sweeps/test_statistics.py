"""Intervals and paired tests agree with scipy's, and too few seeds give none."""

from __future__ import annotations

import math

import pytest
from scipy import stats

from qk_lightning.sweeps.statistics import paired_difference, summarise


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
