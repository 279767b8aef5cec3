"""The verdict core: GenEval's rule case by case, and what the strict rule adds to it."""

from __future__ import annotations

import pytest

from qk_lightning.data.worlds.scene_places import size_word
from qk_lightning.evaluation.geneval import (
    geneval_rule,
    mixed_up,
    relative_position,
    strict,
)


def seen(name, colour="red", x=0.0, y=0.0, side=10.0, **values):
    return {"class": name, "colour": colour, "box": [x, y, x + side, y + side], **values}


def clause(name, count=1, **values):
    return {"class": name, "count": count, **values}


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        (-30, 0, {"left of"}),
        (30, 0, {"right of"}),
        (0, -30, {"above"}),
        (0, 30, {"below"}),
        (40, 40, {"right of", "below"}),  # 45 degrees: two at once
        (20, -60, {"above"}),  # far from an axis: that axis does not count
        (0, 0, set()),
        (2, 0, set()),  # exactly a tenth of both sides
        (2.5, 0, set()),  # a fifth of the offset is left after the margin
        (4.1, 0, {"right of"}),  # just over half of it
        (3.9, 0, set()),
    ],
)
def test_relative_position(x, y, expected):
    assert relative_position(seen("a", x=x, y=y), seen("b")) == expected


def test_the_margin_grows_with_both_boxes_but_the_direction_is_of_the_whole_offset():
    wide = {"class": "a", "colour": "red", "box": [0, 0, 100, 10]}
    beside = {"class": "b", "colour": "red", "box": [60, 40, 160, 50]}
    # Offset (60, 40) less (20, 2) over its length 72.1: (0.55, 0.53).
    assert relative_position(beside, wide) == {"right of", "below"}
    wider = {"class": "b", "colour": "red", "box": [10, 40, 210, 50]}
    # Offset (60, 40) less (30, 2): (0.42, 0.53).
    assert relative_position(wider, wide) == {"below"}


@pytest.mark.parametrize(
    ("detections", "include", "exclude", "reason"),
    [
        ([seen("circle")], [clause("circle")], [], ""),
        ([], [clause("circle")], [], "expected circle>=1, found 0"),
        ([seen("circle")] * 17, [clause("circle", 4)], [], ""),  # extra objects are allowed
        (
            [seen("circle")] * 4,
            [clause("circle", 3)],
            [clause("circle", 4)],
            "expected circle<4, found 4",
        ),
        # Only the surest `count` of a class are looked at.
        (
            [seen("circle", "blue"), seen("circle", "red")],
            [clause("circle", color="red")],
            [],
            "expected red circle>=1, found 0 red; and 1 blue",
        ),
        (
            [seen("circle", "white"), seen("circle", "red"), seen("circle", "red")],
            [clause("circle", 2, color="red")],
            [],
            "expected red circle>=2, found 1 red; and 1 red, 1 white",
        ),
        # Two clauses of a class share one object.
        ([seen("circle")], [clause("circle"), clause("circle", color="red")], [], ""),
        (
            [seen("circle"), seen("square")],
            [clause("square"), clause("circle", position=["left of", 0])],
            [],
            "expected circle left of target, found  target",
        ),
        (
            [seen("circle", x=30, y=30), seen("square")],
            [clause("square"), clause("circle", position=["left of", 0])],
            [],
            "expected circle left of target, found below and right of target",
        ),
        (
            [seen("circle")],
            [clause("square"), clause("circle", position=["left of", 0])],
            [],
            "expected square>=1, found 0\nno target for circle to be left of",
        ),
        # Every pair has to lie so.
        (
            [seen("circle", x=-30), seen("circle", x=30), seen("square")],
            [clause("square"), clause("circle", 2, position=["left of", 0])],
            [],
            "expected circle left of target, found right of target",
        ),
        # A wrong colour is not also asked for its place, and later clauses are still judged.
        (
            [seen("circle", "blue"), seen("square")],
            [clause("square"), clause("circle", color="red", position=["left of", 0]),
             clause("ring")],
            [],
            "expected red circle>=1, found 0 red; and 1 blue\nexpected ring>=1, found 0",
        ),
    ],
)  # fmt: skip
def test_genevals_rule(detections, include, exclude, reason):
    assert geneval_rule(detections, include, exclude) == (not reason, reason)


PAIR = [clause("circle", color="red"), clause("square", color="blue")]


@pytest.mark.parametrize(
    ("detections", "include", "correct"),
    [
        ([seen("circle")], [clause("circle")], True),
        ([seen("circle"), seen("circle")], [clause("circle")], False),  # one too many
        ([seen("circle"), seen("unknown")], [clause("circle")], False),
        ([seen("circle", mark="square", mark_colour="blue")], [clause("circle")], False),
        ([seen("circle"), seen("square", "blue")], PAIR, True),
        ([seen("square", "blue"), seen("circle")], PAIR, True),
        ([seen("circle", "blue"), seen("square", "red")], PAIR, False),
        # One object cannot serve two clauses, ...
        ([seen("circle")], [clause("circle"), clause("circle", color="red")], False),
        # ... and which one serves which is found whatever their order.
        (
            [seen("circle", "blue"), seen("circle", "red")],
            [clause("circle", color="red"), clause("circle", color="blue")],
            True,
        ),
        (
            [seen("circle", "blue", x=40), seen("circle", "blue")],
            [clause("circle"), clause("circle", position=["left of", 0])],
            True,
        ),
        (
            [seen("circle", size=0.2), seen("square", size=0.14)],
            [clause("circle", size="big"), clause("square", size="small")],
            True,
        ),
        (
            [seen("circle", size=0.14), seen("square", size=0.14)],
            [clause("circle", size="big"), clause("square", size="small")],
            False,
        ),
    ],
)
def test_the_strict_rule(detections, include, correct):
    judged = strict(detections, include)
    assert judged.correct is correct
    assert (judged.score == 1) is correct
    assert (judged.reason == "") is correct


def test_what_is_nearly_right_scores_more():
    scores = [
        strict(detections, PAIR).score
        for detections in (
            [],
            [seen("circle")],
            [seen("circle", "blue"), seen("square", "red")],
            [seen("circle"), seen("square", "red")],
            [seen("circle"), seen("square", "blue")],
        )
    ]
    assert scores == sorted(set(scores)) and scores[0] == 0 and scores[-1] == 1


def test_colours_that_were_mixed_up_are_told_apart():
    def mixed(*colours):
        shapes = ("circle", "square")
        return mixed_up([seen(s, c) for s, c in zip(shapes, colours, strict=True)], PAIR)

    assert mixed("red", "blue") == {"swapped": 0, "leaked": 0}
    assert mixed("blue", "red") == {"swapped": 1, "leaked": 0}
    assert mixed("red", "red") == mixed("blue", "blue") == {"swapped": 0, "leaked": 1}
    assert mixed("green", "green") == {"swapped": 0, "leaked": 0}


def test_sizes_have_the_worlds_words():
    assert [size_word(size) for size in (0.13, 0.15, 0.19, 0.21)] == ["small"] * 2 + ["big"] * 2
