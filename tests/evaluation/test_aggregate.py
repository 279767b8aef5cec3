"""Means over pictures, and how far other prompts would move them."""

from __future__ import annotations

import pytest

from qk_lightning.evaluation.aggregate import breakdown, estimate, summarise_rows
from qk_lightning.evaluation.item import Metric
from qk_lightning.evaluation.suite import open_suite


def row(verdict, cluster, tag="a", split="seen", scored=True):
    return {"verdict": verdict, "score": float(verdict), "parts": {}, "scored": scored,
            "cluster": cluster, "tag": tag, "world": "w", "task": "t", "split": split}  # fmt: skip


def test_tags_count_alike_and_prompts_are_resampled_whole():
    rows = [row(True, f"a{n}", "a") for n in range(8)] + [row(False, "b0", "b")]
    of_tags = estimate(rows, Metric("x", "verdict", mean_of="tag"))
    of_items = estimate(rows, Metric("x", "verdict"))
    assert of_tags.value == 0.5
    assert of_items.value == pytest.approx(8 / 9)
    alone = [row(n % 2 == 0, f"p{n}") for n in range(40)]
    together = [row(n % 2 == 0, f"p{n}") for n in range(40) for _ in range(4)]
    narrow, same = (estimate(rows, Metric("x", "verdict")) for rows in (alone, together))
    assert same.ci_high - same.ci_low == pytest.approx(narrow.ci_high - narrow.ci_low, abs=0.01)
    assert narrow.ci_high - narrow.ci_low == pytest.approx(2 * 1.96 * 0.5 / 40**0.5, rel=0.1)


def test_all_wrong_has_an_interval_too():
    found = estimate([row(False, f"p{n}") for n in range(20)], Metric("x", "verdict"))
    assert found.value == found.ci_low == 0
    assert found.ci_high == pytest.approx(1 - 0.025 ** (1 / 20))
    assert estimate([row(True, "p")], Metric("x", "verdict")).ci_low is None
    splits = breakdown([row(True, "p"), row(False, "q", split="pair")], "split")
    assert (splits["seen"]["value"], splits["pair"]["value"]) == (1, 0)


def test_one_prompt_a_tag_tells_of_no_spread():
    rows = [row(n % 2, f"p{n}", tag=f"t{n}") for n in range(9)]
    found = estimate(rows, Metric("x", "verdict", mean_of="tag"))
    assert (found.value, found.ci_low, found.ci_high) == (pytest.approx(4 / 9), None, None)


def test_a_missing_picture_is_as_bad_as_can_be():
    rows = [{**row(True, "p"), "parts": {"over": 0.4}}]
    rows += [row(False, f"q{n}", scored=False) for n in range(3)]
    assert estimate(rows, Metric("x", "over", worst=1.0)).value == pytest.approx(0.85)
    assert estimate(rows, Metric("x", "over")).value == pytest.approx(0.1)


class Tagged:
    split = "seen"

    def __init__(self, tag):
        self.tag = tag


def test_the_gap_of_knowledge_is_the_difference_of_what_stands_beside_it():
    right = {"fact_colour": 1, "direct_colour": 3, "fact_count": 0, "direct_count": 1}
    number = {"colour": 8, "count": 3}  # topics differ in size
    rows = []
    for tag, count in right.items():
        form, topic = tag.split("_")
        for n in range(number[topic]):
            sign = 2 if form == "direct" else -2
            verdict = n < count
            gap = {"parts": {"gap": sign * verdict}}
            rows.append({**row(verdict, f"{topic}{n}", tag=tag), **gap})
    items = [Tagged(tag) for tag in right]
    found = summarise_rows(rows, open_suite("knowledge").metrics(items))
    assert found["gap"].value == pytest.approx(found["direct"].value - found["overall"].value)
    assert found["gap"].ci_low < found["gap"].value < found["gap"].ci_high
    none = [{**one, "verdict": False, "parts": {"gap": 0.0}} for one in rows]
    assert summarise_rows(none, open_suite("knowledge").metrics(items))["gap"].ci_low is None
