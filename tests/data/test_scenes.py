"""Scenes: exact pictures, clear places, words that ask for what is shown."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from qk_lightning.data.worlds import scene_text
from qk_lightning.data.worlds.scene_art import render
from qk_lightning.data.worlds.scene_draw import TAGS, alike
from qk_lightning.data.worlds.scene_graph import (
    BACKGROUNDS,
    COLOURS,
    SHAPES,
    SMALL_SHAPES,
    Scene,
    SceneObject,
)
from qk_lightning.data.worlds.scene_places import place_of, relation_between, stands
from qk_lightning.data.worlds.scenes import Scenes

pytestmark = pytest.mark.shared_root


@pytest.fixture(scope="module")
def world():
    return Scenes(num_scenes=63, num_val=90)


def item(shape="circle", colour="red", x=0.25, y=0.25, size=0.14, **values):
    return SceneObject(shape, colour, x, y, size, **values)


# ---- pictures


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_picture_has_the_area_and_centroid_of_its_object(shape, size):
    scene = Scene((item(shape, "white", 0.46, 0.53, 0.2),), "navy")
    picture = render(scene, size).astype(float)
    background, colour = (np.array(c)[:, None, None] for c in ((25, 35, 85), (250, 250, 250)))
    cover = ((picture - background) / (colour - background)).mean(0)
    centres = (np.arange(size) + 0.5) / size
    assert cover.sum() / size**2 == pytest.approx(math.pi * 0.2**2, rel=0.02)
    assert (cover.sum(0) @ centres) / cover.sum() == pytest.approx(0.46, abs=0.003)
    assert (cover.sum(1) @ centres) / cover.sum() == pytest.approx(0.53, abs=0.003)


def test_a_mark_lies_on_its_object_and_edges_are_mixed():
    marked = item("square", "green", 0.5, 0.5, 0.26, mark="circle", mark_colour="white")
    picture = render(Scene((marked,), "grey"), 32)
    assert tuple(picture[:, 16, 16]) == COLOURS["white"]
    assert tuple(picture[:, 10, 10]) == COLOURS["green"]
    assert tuple(picture[:, 0, 0]) == BACKGROUNDS["grey"]
    assert len(np.unique(picture.reshape(3, -1), axis=1).T) > 3


@pytest.mark.parametrize("size", [32, 64])
def test_pictures_are_the_renders_of_what_a_row_shows(root, size):
    world = Scenes(num_scenes=4, num_val=3, size=size)
    done = []
    world.prepare(lambda *counts: done.append(counts))
    assert done[-1] == (42, 42) and world.num_images == 42
    again = Scenes(num_scenes=4, num_val=3, size=size)  # reads what the first one kept
    again.prepare()
    for row in range(42):
        assert again.scene_of(row) == world.scene_of(row)
        assert (again.image(row) == render(world.scene_of(row), size)).all()
    assert again.edit_of(5) == world.edit_of(5)


def test_a_damaged_file_of_scenes_is_made_anew():
    world = Scenes(num_scenes=2, num_val=2, world_seed=5)
    world.prepare()
    file = world.table_path.with_suffix(".json")
    file.write_text(file.read_text()[:-30])
    with pytest.warns(UserWarning, match="made anew"):
        again = Scenes(num_scenes=2, num_val=2, world_seed=5)
        again.prepare()
    assert again.scene_of(3) == world.scene_of(3)


def test_what_is_held_out_is_the_same_in_every_world():
    one, other = Scenes().held_out, Scenes(world_seed=5).held_out
    assert (one.pairs, one.counts, one.relations) == (other.pairs, other.counts, other.relations)
    assert Scenes().scene_of(0) != Scenes(world_seed=5).scene_of(0)


def test_the_fingerprint_follows_the_drawings(monkeypatch):
    def fingerprint(**values):
        return Scenes(**{"num_scenes": 4, "num_val": 3} | values).fingerprint()

    before = fingerprint()
    assert before == fingerprint()
    others = [fingerprint(world_seed=1), fingerprint(size=64), fingerprint(num_val=4)]
    monkeypatch.setitem(COLOURS, "red", (215, 39, 40))
    monkeypatch.setitem(BACKGROUNDS, "grey", (141, 140, 140))
    assert len({before, fingerprint(), *others}) == 5


# ---- scenes


@pytest.mark.parametrize("size", [32, 64])
def test_objects_are_apart_inside_and_in_places_of_their_own(size):
    world = Scenes(num_scenes=45, num_val=45, size=size)
    shapes, colours = Counter(), Counter()
    for row in range(world.num_images):
        scene = world.scene_of(row)
        assert stands(scene), scene
        assert 1 <= len(scene.objects) <= 4
        for thing in scene.objects:
            shapes[thing.shape] += 1
            colours[thing.colour] += 1
            assert (thing.colour, scene.background) not in (("white", "cream"), ("black", "navy"))
            if thing.mark:
                assert not alike(thing.colour, thing.mark_colour)
    assert set(shapes) == set(SMALL_SHAPES if size == 32 else SHAPES)
    assert set(colours) == set(COLOURS)


def test_stands_refuses_touching_leaving_and_doubtful_places():
    good = Scene((item(), item("square", "blue", 0.75, 0.7)), "grey")
    assert stands(good)
    first, second = good.objects
    for wrong in (
        (first, replace(second, x=0.5, y=0.3)),  # nearer than the gap
        (first, replace(second, x=0.9)),  # over the edge
        (first, replace(second, x=0.61)),  # on the border between two places
        (replace(first, x=0.18, y=0.15), replace(second, x=0.36, y=0.36, size=0.05)),  # one place
    ):
        assert not stands(Scene(wrong, "grey"))


def test_relations_need_a_clear_axis():
    middle = item(x=0.5, y=0.5)
    assert relation_between(item(x=0.2, y=0.6), middle) == "left of"
    assert relation_between(item(x=0.8, y=0.4), middle) == "right of"
    assert relation_between(item(x=0.6, y=0.2), middle) == "above"
    assert relation_between(item(x=0.5, y=0.8), middle) == "below"
    assert relation_between(item(x=0.2, y=0.25), middle) is None


@pytest.mark.parametrize("tag", TAGS)
def test_a_tag_shows_what_it_asks_for(world, tag):
    rng = np.random.default_rng(0)
    for _ in range(12):
        scene = world.items.drawer.scene(tag, rng)
        told = scene_text.tell(scene, tag, rng)
        number = sum(clause["count"] for clause in told.include)
        assert number == len(scene.objects)
        for words in told.include:
            matching = [
                thing
                for thing in scene.objects
                if thing.shape == words["class"]
                and words.get("color", thing.colour) == thing.colour
            ]
            assert len(matching) == words["count"]
            assert words["class"] in told.prompt and words.get("color", "") in told.prompt
        assert told.asks_background == (tag == "background")
        if tag == "position":
            relation, to = told.include[1]["position"]
            by_shape = {thing.shape: thing for thing in scene.objects}
            a, b = (by_shape[told.include[k]["class"]] for k in (1, to))
            assert relation_between(a, b) == relation
        if tag == "counting":
            shape = scene.objects[0].shape
            assert told.exclude == [{"class": shape, "count": number + 1}]
        if tag == "size":
            assert {clause["size"] for clause in told.include} == {"small", "big"}


def test_a_description_tells_all_from_left_to_right():
    scene = Scene(
        (
            item("square", "blue", 0.75, 0.5, 0.2),
            item("circle", "orange", 0.2, 0.2, mark="cross", mark_colour="white"),
        ),
        "navy",
    )
    assert scene_text.description(scene) == (
        "on a navy background: a small orange circle with a white cross mark at the top left, "
        "a big blue square at the right."
    )
    assert place_of(0.5, 0.5).name == "centre"
