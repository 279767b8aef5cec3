"""Questions about scenes: pure, exact, balanced, and free of what train must not say."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest

from qk_lightning.data.worlds import scene_asks, scene_facts
from qk_lightning.data.worlds.asked_question import (
    DESCRIBE,
    DRAW,
    EDIT,
    FACT_IN_CONTEXT,
    LONG,
    LOOK,
    READ,
    SHORT,
)
from qk_lightning.data.worlds.facts import ALL_FACTS
from qk_lightning.data.worlds.scene_facts import knowledge_prompts
from qk_lightning.data.worlds.scene_graph import Scene, SceneObject
from qk_lightning.data.worlds.scene_restated import restate
from qk_lightning.data.worlds.scene_text import description
from qk_lightning.data.worlds.scenes import Scenes

SPLITS = ("train", "val")
NUM = 400
TWO = Scene(
    (
        SceneObject("circle", "red", 0.2, 0.2, 0.14),
        SceneObject("square", "blue", 0.8, 0.25, 0.2),
    ),
    "cream",
)


pytestmark = pytest.mark.shared_root


@pytest.fixture(scope="module")
def world():
    return Scenes(num_scenes=60, num_val=45)


@pytest.fixture(scope="module")
def asked(world):
    return {split: [world.question(i, split) for i in range(NUM)] for split in SPLITS}


@pytest.mark.parametrize("split", SPLITS)
def test_questions_are_pure_and_of_their_split(world, asked, split):
    again = Scenes(num_scenes=60, num_val=45)
    for index in (0, 7, NUM - 1):
        assert again.question(index, split) == asked[split][index]
        assert world.qa(index, split) == asked[split][index].as_asked
    assert {q.kind for q in asked[split]} == {*SHORT, *LONG}
    for question in asked[split]:
        assert question.row is None or question.row in world.rows(split)
        is_short = question.num_answers > 0
        assert is_short == (len(question.answer.split()) <= 2 and not question.answer.endswith("."))
        assert question.text == question.text.strip().lower()


def test_pictures_are_described_as_they_are(world, asked):
    for question in asked["val"]:
        if question.kind == DESCRIBE:
            assert question.answer == description(world.scene_of(question.row))
        if question.kind == DRAW and question.topic == "reconstruction":
            assert question.answer == description(world.scene_of(question.row))
    shares = Counter(question.kind for question in asked["train"])
    pictures = sum(question.row is not None for question in asked["train"])
    assert 0.3 < shares[DESCRIBE] / pictures < 0.5


def test_an_edit_in_words_comes_to_the_edited_scene(world, asked):
    for question in asked["train"]:
        if question.kind == EDIT:
            assert question.row is None and question.text.startswith("on a ")
            assert question.answer != question.text and question.answer.startswith("on a ")
    assert any(q.kind == DRAW and q.topic == "editing" and q.row for q in asked["train"])


def test_short_answers_about_a_known_scene():
    about = scene_asks.About(TWO, ("circle", "square", "ring"))
    right = {
        "what colour is the circle?": "red",
        "what colour is the object at the top left?": "red",
        "what shape is the blue object?": "square",
        "where is the square?": "top right",
        "what shape is right of the circle?": "square",
        "what shape is left of the square?": "circle",
        "is the square big or small?": "big",
        "what colour is the background?": "cream",
        "how many objects are there?": "two",
        "how many circles are there?": "one",
        "is there a red circle?": "yes",
        "is there a blue circle?": "no",
        "is there a red ring?": "no",
    }
    rng = np.random.default_rng(0)
    given = {}
    for _ in range(600):
        question = scene_asks.ask(about, rng)
        assert given.setdefault(question.text, question.answer) == question.answer
    assert {text: given.get(text) for text in right} == right
    assert not any("mark" in text for text in given)


def test_nothing_ambiguous_is_asked():
    twins = Scene(
        (
            SceneObject("circle", "red", 0.2, 0.2, 0.14),
            SceneObject("circle", "red", 0.8, 0.8, 0.14, "cross", "blue"),
        ),
        "navy",
    )
    rng = np.random.default_rng(0)
    about = scene_asks.About(twins, ("circle", "cross"))
    texts = {scene_asks.ask(about, rng).text for _ in range(300)}
    assert not any(re.search("the circle|the red|how many|blue cross", text) for text in texts)
    assert "what colour is the object at the bottom right?" in texts


def test_yes_and_no_are_even():
    rng = np.random.default_rng(0)
    about = scene_asks.About(TWO, ("circle", "square", "ring"), {("circle", "blue")})
    asked = [scene_asks.ask(about, rng) for _ in range(1500)]
    answers = [question.answer for question in asked if question.topic == "exists"]
    assert len(answers) > 100 and 0.4 < answers.count("yes") / len(answers) < 0.6
    assert all(question.text != "is there a blue circle?" for question in asked)


def test_train_says_nothing_that_is_held_out(world, asked):
    held_out_phrases = [fact.phrase for fact in ALL_FACTS if fact.held_out]
    for question in asked["train"]:
        assert question.held_out == ()
        said = set(re.findall(r"(\w+) (\w+)", f"{question.text} {question.answer}"))
        assert not {(shape, colour) for colour, shape in said} & world.held_out.pairs
        if question.kind == FACT_IN_CONTEXT:
            assert not any(phrase in question.text for phrase in held_out_phrases)
    broken = Counter(what for question in asked["val"] for what in question.held_out)
    assert {"pair", "phrasing", "subject"} <= set(broken)


def test_prompts_are_restated_with_all_they_say_and_no_more(world):
    for index in range(world.num_samples("text_to_image", "val")):
        sample = world.sample("text_to_image", "val", index)
        scene = Scene.from_dict(sample.facts["scene"])
        answer = restate(sample.prompt, scene, sample.facts)
        for clause in sample.facts["include"]:
            assert clause["class"] in answer
            assert clause.get("color", "") in answer and clause.get("size", "") in answer
            assert ("position" in clause) <= (clause.get("position", [""])[0] in answer)
        said = set(re.findall(r"\w+", sample.prompt)) | {"left", "right", "below"}
        new = set(re.findall(r"\w+", answer)) - said
        assert new <= {"on", "a", "an", "at", "the", "background", "one"}, (sample.prompt, answer)
    full = {"include": [{"class": "circle", "count": 1, "color": "red"}], "asks_background": True}
    assert restate(description(TWO), TWO, full) == description(TWO)


def test_facts_never_name_their_word_and_one_phrase_of_each_is_held_out():
    phrases = [fact.phrase for fact in ALL_FACTS]
    assert len(set(phrases)) == len(phrases)
    for word in {fact.word for fact in ALL_FACTS}:
        known = [fact for fact in ALL_FACTS if fact.word == word]
        assert len(known) >= 3
        assert sum(fact.held_out for fact in known) == 1
        assert not any(word in re.findall(r"\w+", fact.phrase) for fact in known)


def test_every_held_out_phrase_is_asked_as_a_plain_fact(world):
    rng = np.random.default_rng(0)
    plain = {q.text: q.answer for q in (scene_facts.ask(world, "train", rng) for _ in range(900))}
    known = scene_facts.known_facts(world)
    assert plain == {fact.question: fact.word for fact in known}
    assert {fact.word for fact in known if fact.topic == "shape"} == set(world.shapes)


def test_knowledge_prompts_ask_only_for_what_train_has_seen(world):
    rows = list(knowledge_prompts(world))
    assert len({row["prompt"] for row in rows}) == len(rows) > 200
    assert {row["topic"] for row in rows} == {"colour", "shape", "count"}
    for row in rows:
        assert row["phrase"] in row["prompt"] and row["word"] in row["direct"]
        (clause,) = row["include"]
        assert clause["class"] in world.shapes
        assert (clause["class"], clause.get("color")) not in world.held_out.pairs
        assert (clause["count"], clause["class"]) not in world.held_out.counts


def test_no_word_is_unknown_to_the_tokenizer(world, asked):
    known = set(re.findall(r"\w+", " ".join(world.captions_for_tokenizer(num_drawn=300))))
    for split in SPLITS:
        for question in asked[split]:
            assert set(re.findall(r"\w+", f"{question.text} {question.answer}")) <= known
    for row in knowledge_prompts(world):
        assert set(re.findall(r"\w+", row["prompt"])) <= known


def test_what_is_read_is_said_in_the_text(asked):
    for question in asked["train"]:
        if question.kind in (LOOK, READ):
            assert question.text.endswith("?")
        if question.kind == READ:
            assert question.row is None and len(question.text.split()) > 5
