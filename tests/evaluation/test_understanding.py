"""Scores of understanding: right is 1, the majority and chance are what guessing gives."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from qk_lightning.data.worlds.asked_question import DESCRIBE, FACT, LOOK, Question
from qk_lightning.evaluation.understanding import (
    majority_answers,
    score,
    score_understanding,
    summarise,
    worlds_of,
)

RIGHT = "on a navy background: a small red circle at the top left, a big blue square at the right."


class Asked:
    """A world of three questions that come round; train knows "red" best."""

    def question(self, index, split):
        colour = ("red", "red", "blue")[index % 3]
        kind = (LOOK, FACT)[index % 2]
        held_out = ("pair",) if index % 3 == 2 and split == "val" else ()
        return Question(None, f"question {index}", colour, kind, "colour", 10, held_out)


def described(text):
    return Question(3, "what do you see?", text, DESCRIBE, "scene")


def test_descriptions_are_scored_by_words_phrases_and_as_a_whole():
    assert score(described(RIGHT), RIGHT) == {"words": 1, "phrases": 1, "exact": 1}
    swapped = RIGHT.replace("red", "x").replace("blue", "red").replace("x", "blue")
    given = score(described(RIGHT), swapped)
    assert given["exact"] == 0 and given["phrases"] == pytest.approx(1 / 3)
    assert 0.6 < given["words"] < 1
    assert score(described(RIGHT), "") == {"words": 0, "phrases": 0, "exact": 0}
    more = score(described(RIGHT), f"{RIGHT[:-1]}, a small pink ring at the bottom.")
    assert more["phrases"] == pytest.approx(6 / 7) and more["exact"] == 0


def test_the_majority_is_what_train_says_most():
    world = Asked()
    usual = majority_answers(world.question(i, "train") for i in range(30))
    assert usual == {(LOOK, "colour"): "red", (FACT, "colour"): "red"}
    texts = [RIGHT, RIGHT.replace("navy", "teal"), "on a cream background: two pink rings."]
    nearest = majority_answers(described(text) for text in texts)
    assert nearest[DESCRIBE, "scene"] in texts[:2]


def test_one_who_knows_scores_one_and_one_who_guesses_the_baseline():
    world = Asked()
    knows = score_understanding(lambda _, asked: [q.answer for q in asked], world, 60)
    says_red = score_understanding(lambda _, asked: ["red "] * len(asked), world, 60)
    for kind in (LOOK, FACT):
        key = f"eval/understanding/asked/{kind}"
        assert knows[f"{key}/accuracy"] == 1
        assert says_red[f"{key}/accuracy"] == knows[f"{key}/accuracy_majority"]
        assert says_red[f"{key}/accuracy"] == pytest.approx(2 / 3)
        assert knows[f"{key}/chance"] == pytest.approx(0.1)
        assert says_red[f"{key}/held_out/pair"] == 0 and says_red[f"{key}/held_out/nothing"] == 1
        assert knows[f"{key}/by_topic/colour"] == 1


def test_a_mixture_is_asked_world_by_world():
    mixture = SimpleNamespace(worlds={"a": Asked(), "b": Asked(), "mute": object()})
    assert list(worlds_of(mixture)) == ["a", "b"]
    seen = []

    def answer(world, asked):
        seen.append(world)
        return [q.answer for q in asked]

    scores = score_understanding(answer, mixture, 12)
    assert seen == [mixture.worlds["a"], mixture.worlds["b"]]
    assert {key.split("/")[2] for key in scores} == {"a", "b"}
    assert summarise([]) == {}
