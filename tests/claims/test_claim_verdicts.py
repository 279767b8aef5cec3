"""Verdicts are functions of numbers: which side of the claim the interval lies on."""

from __future__ import annotations

import math

import numpy as np
import pytest

from qk_lightning.claims.file import Comparison
from qk_lightning.claims.verdict import judge, verdict_of

NOISE = {0: 0.01, 1: -0.01, 2: 0.0}


def values(arm: float, other: float, metric="score", noise=1.0):
    """Two arms that differ by arm - other, and a little from seed to seed."""
    return {
        ("a", metric): {seed: arm + noise * e for seed, e in NOISE.items()},
        ("b", metric): dict.fromkeys(NOISE, other),
    }


def better(metric="score", goal="max"):
    return Comparison("a", "better_than", "b", metric, goal)


@pytest.mark.parametrize(
    ("arm", "other", "goal", "verdict"),
    [
        (0.6, 0.4, "max", "supported"),
        (0.4, 0.6, "max", "contradicted"),
        (0.41, 0.40, "max", "not shown"),
        (0.4, 0.6, "min", "supported"),
        (0.6, 0.4, "min", "contradicted"),
    ],
)
def test_better_than_goes_by_the_side_of_zero(arm, other, goal, verdict):
    (outcome,) = judge([better(goal=goal)], values(arm, other))
    assert outcome.verdict == verdict
    assert outcome.difference.mean == pytest.approx(arm - other)  # in the metric's own unit


@pytest.mark.parametrize(
    ("arm", "goal", "verdict"),
    [
        (0.40, "max", "supported"),  # as good
        (0.37, "max", "supported"),  # worse by less than the margin
        (0.50, "max", "supported"),  # better is no worse
        (0.30, "max", "contradicted"),
        (0.345, "max", "not shown"),
        (0.43, "min", "supported"),
        (0.50, "min", "contradicted"),
    ],
)
def test_no_worse_than_goes_by_the_side_of_the_margin(arm, goal, verdict):
    parity = Comparison("a", "no_worse_than", "b", "score", goal, by=0.06)
    (outcome,) = judge([parity], values(arm, 0.4))
    assert outcome.verdict == verdict
    assert outcome.difference.mean == pytest.approx(arm - 0.4)


def test_above_compares_one_arm_with_a_number():
    above = Comparison("a", "above", "", "gap", "max", value=0.0)
    (outcome,) = judge([above], values(2.0, 0.0, "gap"))
    assert (outcome.verdict, outcome.other) == ("supported", None)
    assert judge([above], values(-2.0, 0.0, "gap"))[0].verdict == "contradicted"


def test_what_was_not_measured_was_not_run():
    (outcome,) = judge([better()], {})
    assert (outcome.verdict, outcome.difference) == ("not run", None)
    half = values(0.6, 0.4)
    half["b", "score"] = {0: 0.4, 1: 0.4}
    (outcome,) = judge([better()], half)
    assert outcome.verdict == "not run"
    assert judge([better()], values(0.6, 0.4), num_seeds=5)[0].verdict == "not run"


def test_a_run_that_diverged_shows_nothing():
    broken = values(0.6, 0.4)
    broken["a", "score"][1] = math.nan
    assert judge([better()], broken)[0].verdict == "not shown"


def test_several_comparisons_are_corrected_by_holm_and_must_all_hold():
    # A p value between 0.025 and 0.05: enough alone, not enough beside another that shows nothing.
    near, nothing = values(0.43, 0.4, "near"), values(0.4, 0.4, "nothing")
    (alone,) = judge([better("near")], near)
    assert 0.025 < alone.adjusted_p < 0.05
    assert alone.verdict == "supported"
    both = judge([better("near"), better("nothing")], near | nothing)
    assert [one.verdict for one in both] == ["not shown", "not shown"]
    clear = values(0.8, 0.4, "clear")
    both = judge([better("near"), better("clear")], near | clear)
    assert [one.verdict for one in both] == ["supported", "supported"]
    assert verdict_of(both) == "supported"


def test_a_claim_is_what_all_its_comparisons_come_to():
    of = {
        "supported": values(0.6, 0.4),
        "contradicted": values(0.4, 0.6),
        "not shown": values(0.4, 0.4),
        "not run": {},
    }
    outcomes = {name: judge([better()], given)[0] for name, given in of.items()}

    def told(*names):
        return verdict_of([outcomes[name] for name in names])

    assert told("supported", "supported") == "supported"
    assert told("supported", "not shown") == "not shown"
    assert told("supported", "not shown", "contradicted") == "contradicted"
    assert told("contradicted", "not run") == "not run"
    assert verdict_of([]) == "not run"


def test_arms_that_do_not_differ_are_seldom_called_so():
    """Of 2,000 claims about nothing, some 2.5 % are supported and as many contradicted."""
    draws = np.random.default_rng(0).normal(size=(2000, 2, 3))
    found = []
    for arm, other in draws:
        given = {
            ("a", "score"): dict(enumerate(arm)),
            ("b", "score"): dict(enumerate(other)),
        }
        found.append(judge([better()], given)[0].verdict)
    share = {name: found.count(name) / len(found) for name in ("supported", "contradicted")}
    assert 0.015 < share["supported"] < 0.035
    assert 0.015 < share["contradicted"] < 0.035


def test_the_detectable_difference_is_shown_four_times_out_of_five():
    rng = np.random.default_rng(1)
    (outcome,) = judge([better()], values(0.6, 0.4))
    effect = outcome.detectable
    assert effect > 0
    hits = 0
    for noise in rng.normal(0, 0.01, size=(2000, 3)):
        given = {
            ("a", "score"): dict(enumerate(0.4 + effect + noise)),
            ("b", "score"): dict.fromkeys(range(3), 0.4),
        }
        hits += judge([better()], given)[0].verdict == "supported"
    assert 0.77 < hits / 2000 < 0.83
