"""The scenes' reader end to end: right pictures with one thing wrong flip the verdicts they should.

Captions go by the matrix of evaluation/mutations.py; edits and subjects by scenes made by hand.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from qk_lightning.data.worlds.scene_art import render
from qk_lightning.data.worlds.scene_draw import TAGS
from qk_lightning.data.worlds.scene_graph import SIZES, Scene, SceneObject
from qk_lightning.data.worlds.scenes import Scenes
from qk_lightning.evaluation.mutations import MUTATIONS, mutate
from qk_lightning.evaluation.readers import reader_for
from qk_lightning.evaluation.untouched import untouched_parts

NUM_EACH = 2
COLOURED = {"colors", "color_attr", "three_object", "background"}  # tags that name colours
ALL = set(TAGS)
# The tags that a mutation makes wrong; all others stay right.
FLIPS = {
    "nothing": set(),
    "wrong shape": ALL,
    "wrong colour": COLOURED,
    "colours of two swapped": {"color_attr", "three_object"},
    "one object less": ALL,
    "one object more": ALL,
    "left and right exchanged": {"position"},  # of left and right, not of above and below
    "places turned by half": {"position"},
    "all shifted by 2 px": set(),
    "another background": {"background"},
    "blur of 0.7 px": set(),
}


pytestmark = pytest.mark.shared_root


@pytest.fixture(scope="module", params=[32, pytest.param(64, marks=pytest.mark.slow)])
def world(request):
    return Scenes(size=request.param, num_scenes=4, num_val=NUM_EACH * len(TAGS))


@pytest.fixture(scope="module")
def reader(world):
    return reader_for(world)


def judge(reader, scene, facts, source=None):
    size = reader.size
    sources = None if source is None else render(source, size)[None]
    return reader.verdicts(render(scene, size)[None], [facts], sources)[0]


def test_every_mutation_is_expected():
    assert set(FLIPS) == set(MUTATIONS)


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_mutation_flips_its_tags_and_no_others(world, reader, name):
    for index in range(world.num_val):
        facts = world.sample("text_to_image", "val", index).facts
        image = mutate(name, Scene.from_dict(facts["scene"]), world.shapes, world.size)
        if image is None:
            continue
        [verdict] = reader.verdicts(image[None], [facts])
        flips = facts["tag"] in FLIPS[name]
        if name.startswith("left and right") and facts["tag"] == "position":
            flips = facts["include"][1]["position"][0] in ("left of", "right of")
        assert verdict.correct is not flips, (facts["tag"], verdict.reason)
        assert (verdict.reason == "") is verdict.correct
        if name == "one object more" and facts["tag"] in ("single_object", "two_object"):
            assert verdict.parts["geneval_rule"] == 1  # GenEval allows extra objects
        if name == "colours of two swapped" and facts["tag"] == "color_attr":
            assert (verdict.parts["swapped"], verdict.parts["leaked"]) == (1, 0)


def test_nothing_is_right_about_blank_and_noisy_pictures(world, reader):
    facts = [world.sample("text_to_image", "val", index).facts for index in range(world.num_val)]
    shape = (len(facts), 3, world.size, world.size)
    noise = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    for images in (np.full(shape, 128, np.uint8), noise):
        assert not any(verdict.correct for verdict in reader.verdicts(images, facts))


CIRCLE = SceneObject("circle", "red", 0.25, 0.25, SIZES["small"])
SQUARE = SceneObject("square", "blue", 0.75, 0.75, SIZES["small"])
BEFORE = Scene((CIRCLE, SQUARE), "grey")
AFTER = Scene((replace(CIRCLE, colour="yellow"), SQUARE), "grey")
GREEN_SQUARE = replace(SQUARE, colour="green")
RECOLOUR = {
    "tag": "recolour",
    "edit": {"op": "recolour", "objects": [0]},
    "source_scene": BEFORE.to_dict(),
    "scene": AFTER.to_dict(),
}


@pytest.mark.parametrize(
    ("scene", "success", "preserve", "background"),
    [
        (AFTER, 1, 1, 1),
        (BEFORE, 0, 1, 1),  # the source unchanged
        (replace(AFTER, objects=(AFTER.objects[0], GREEN_SQUARE)), 1, 0, 1),  # another changed too
        (Scene((CIRCLE, GREEN_SQUARE), "grey"), 0, 0, 1),  # another changed instead
        (replace(AFTER, background="navy"), 1, 1, 0),
        (replace(AFTER, objects=AFTER.objects[:1]), 1, 0, 1),  # another went
        (replace(AFTER, objects=AFTER.objects[1:]), 0, 1, 1),  # it went
    ],
)
def test_edits_fail_on_the_axis_that_they_break(reader, scene, success, preserve, background):
    parts = judge(reader, scene, RECOLOUR, BEFORE).parts
    assert (parts["success"], parts["preserve"], parts["background"]) == (
        success, preserve, background
    )  # fmt: skip
    assert parts["joint"] == min(success, preserve, background)


def test_a_tint_that_no_name_shows_is_over_editing(reader):
    source, image = (render(scene, reader.size)[None] for scene in (BEFORE, AFTER))
    changed = (image != source).any((0, 1))
    [exact] = untouched_parts(image, source, [changed])
    assert exact["over_edit"] == 0
    tinted = (image + np.array([22, 12, 0])[:, None, None]).clip(0, 255).astype(np.uint8)
    [verdict] = reader.verdicts(tinted, [RECOLOUR])
    [parts] = untouched_parts(tinted, source, [changed])
    assert verdict.parts["joint"] == 1 and parts["over_edit"] > 0.9


@pytest.mark.parametrize("task", ["editing", "customised", "multi_subject", "reconstruction"])
def test_the_worlds_own_pictures_are_right_and_those_of_others_wrong(world, reader, task):
    count = NUM_EACH * 7
    samples = [world.sample(task, "val", index) for index in range(count)]
    images = np.stack([world.image(sample.target) for sample in samples])
    facts = [sample.facts for sample in samples]
    right = reader.verdicts(images, facts)
    assert [verdict.reason for verdict in right] == [""] * count
    assert all(verdict.correct and verdict.score == 1 for verdict in right)
    wrong = reader.verdicts(np.roll(images, 5, axis=0), facts)
    assert not any(verdict.correct for verdict in wrong)
    assert all(verdict.score < 1 for verdict in wrong)


def _two(world):
    facts = world.sample("multi_subject", "val", 0).facts
    return Scene.from_dict(facts["scene"]), facts


def test_subjects_keep_their_identity_or_lose_it(world, reader):
    scene, facts = _two(world)
    one, two = scene.objects
    verdict = judge(reader, scene, facts)
    assert verdict.parts["rank1"] == verdict.parts["mrr"] == 1 and not verdict.parts["swapped"]
    gone = judge(reader, replace(scene, objects=(one,)), facts).parts
    assert (gone["rank1"], gone["mrr"], gone["count"]) == (0.5, 0.5, 0)
    bare = replace(one, mark=None, mark_colour=None)
    assert judge(reader, replace(scene, objects=(bare, two)), facts).parts["rank1"] == 0.5
    places = [(item.x, item.y, item.size) for item in scene.objects]
    exchanged = tuple(
        replace(item, x=x, y=y, size=size)
        for item, (x, y, size) in zip(scene.objects, reversed(places), strict=True)
    )
    verdict = judge(reader, replace(scene, objects=exchanged), facts)
    assert not verdict.correct
    parts = verdict.parts
    assert (parts["rank1"], parts["relation"], parts["swapped"]) == (1, 0, 1)
    blank = judge(reader, replace(scene, objects=()), facts)
    assert (blank.parts["rank1"], blank.parts["mrr"]) == (0, 0)


def test_a_copied_scene_has_to_be_the_same_everywhere(reader):
    facts = {"tag": "reconstruction", "scene": BEFORE.to_dict()}
    assert judge(reader, BEFORE, facts).correct
    moved = replace(CIRCLE, x=CIRCLE.x + 0.1)
    for scene in (
        AFTER,
        replace(BEFORE, background="navy"),
        replace(BEFORE, objects=(moved, SQUARE)),
        replace(BEFORE, objects=(CIRCLE,)),
    ):
        verdict = judge(reader, scene, facts)
        assert not verdict.correct and 0.4 < verdict.score < 1
    assert judge(reader, replace(BEFORE, objects=()), facts).score < 0.3
