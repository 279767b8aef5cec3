"""Samples of the scenes world: exact facts, aligned edits, and nothing held out in train."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from itertools import permutations

import numpy as np
import pytest

from qk_lightning.config.errors import ConfigError
from qk_lightning.data.sample import TASKS
from qk_lightning.data.worlds import scene_orders, scene_text
from qk_lightning.data.worlds.scene_draw import TAGS
from qk_lightning.data.worlds.scene_edits import OPS
from qk_lightning.data.worlds.scene_graph import COLOURS, SHAPES, SMALL_SHAPES, Scene
from qk_lightning.data.worlds.scene_items import ELSEWHERE, NUM_KINDS, SCENE, SUBJECT
from qk_lightning.data.worlds.scene_split import KINDS, HeldOut
from qk_lightning.data.worlds.scenes import Scenes

SPLITS = ("train", "val")

pytestmark = pytest.mark.shared_root


@pytest.fixture(scope="module")
def world():
    return Scenes(num_scenes=63, num_val=90)


def samples(world, task, split):
    return [world.sample(task, split, i) for i in range(world.num_samples(task, split))]


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("task", TASKS)
def test_samples_are_pure_and_complete(world, task, split):
    other = Scenes(num_scenes=63, num_val=90)
    count = world.num_samples(task, split)
    assert world.layouts(task, split) == [(world.sample(task, split, 0).roles, count)]
    ids = set()
    for index in range(0, count, 3):
        sample, again = world.sample(task, split, index), other.sample(task, split, index + count)
        assert (sample.id, sample.prompt, sample.images, sample.target, sample.facts) == (
            again.id,
            again.prompt,
            again.images,
            again.target,
            again.facts,
        )
        rows = world.rows(split)
        assert {*sample.images, sample.target} <= set(rows)
        assert Scene.from_dict(sample.facts["scene"]) == world.scene_of(sample.target)
        assert json.loads(json.dumps(sample.facts)) == sample.facts
        assert sample.prompt == sample.prompt.lower() and len(sample.prompt.split()) <= 40
        ids.add(sample.id)
    assert len(ids) == len(range(0, count, 3))


@pytest.mark.parametrize("size", [32, 64])
def test_train_shows_and_tells_nothing_that_is_held_out(size):
    """Looked up here without `violations`, over the whole stream of pictures."""
    world = Scenes(num_scenes=80, num_val=2, size=size)
    held_out, seen, identities = world.held_out, set(), set()
    for row in world.rows("train"):
        scene = world.scene_of(row)
        for thing in scene.objects:
            seen.add((thing.shape, thing.colour))
            assert (thing.mark, thing.mark_colour) not in held_out.pairs
            if thing.mark:
                identities.add(thing.identity)
        counts = Counter(thing.shape for thing in scene.objects)
        assert not {(number, shape) for shape, number in counts.items()} & held_out.counts
        for a, b in permutations(scene.objects, 2):
            if abs(a.x - b.x) > abs(a.y - b.y):
                relation = "left of" if a.x < b.x else "right of"
            else:
                relation = "above" if a.y < b.y else "below"
            assert (relation, a.shape, b.shape) not in held_out.relations
    assert not seen & held_out.pairs
    assert not any(held_out.holds_subject(identity) for identity in identities)
    for task in TASKS:
        for index in range(0, world.num_samples(task, "train"), 7):
            sample = world.sample(task, "train", index)
            assert world.violations(sample) == []
            assert not any(sample.facts["held_out"].values())
            for clause in sample.facts["include"]:
                assert (clause["class"], clause.get("color")) not in held_out.pairs


@pytest.mark.parametrize("task", TASKS)
def test_val_breaks_one_kind_at_most_and_says_which(world, task):
    flags = Counter()
    for sample in samples(world, task, "val"):
        broken = [kind for kind in KINDS if sample.facts["held_out"][kind]]
        assert broken == world.violations(sample)
        assert len(broken) <= 1
        flags[broken[0] if broken else None] += 1
    total = sum(flags.values())
    assert flags["phrasing"] >= 0.15 * total
    if task == "text_to_image":
        assert flags[None] == 0.6 * total
        assert flags["pair"] and flags["count"] and flags["relation"]
    if task in ("customised", "multi_subject"):
        assert flags["subject"] >= 0.4 * total


def test_held_out_phrasings_are_new_but_their_words_are_not(world):
    def prompts(split, flag):
        return {
            sample.prompt
            for task in TASKS
            for sample in samples(world, task, split)
            if sample.facts["held_out"]["phrasing"] == flag
        }

    train = prompts("train", False)
    new = prompts("val", True)
    assert new and not new & train
    frames = (scene_text.FRAMES, *scene_orders.INSTRUCTIONS.values(), scene_text.CAPTIONS)
    frames += (scene_orders.RECONSTRUCTION, scene_orders.CUSTOMISED, scene_orders.SUBJECTS)
    known = {word for group in frames for text in group for word in _words(text)}
    new_frames = (scene_text.HELD_OUT_FRAMES, *scene_orders.HELD_OUT_INSTRUCTIONS.values())
    new_frames += (scene_orders.HELD_OUT_RECONSTRUCTION, scene_orders.HELD_OUT_CUSTOMISED)
    for text in (t for group in (*new_frames, scene_orders.HELD_OUT_SUBJECTS) for t in group):
        assert not set(_words(text)) - known, text


def _words(text):
    return text.replace(".", "").replace(",", "").replace(":", "").split()


def test_val_tags_come_evenly_and_train_has_all(world):
    tags = Counter(s.facts["tag"] for s in samples(world, "text_to_image", "val"))
    assert tags == dict.fromkeys(TAGS, 10)
    big = Scenes(num_scenes=400, num_val=2)
    counts = Counter(big.tag_of(item) for item in range(400))
    assert set(counts) == set(TAGS)
    assert counts["color_attr"] > 2 * counts["two_object"]


def test_an_edit_changes_what_it_names_and_nothing_else(world):
    ops = Counter()
    for sample in samples(world, "editing", "train")[:63]:
        source = Scene.from_dict(sample.facts["source_scene"])
        target = Scene.from_dict(sample.facts["scene"])
        op, named = sample.facts["edit"]["op"], sample.facts["edit"]["objects"]
        ops[op] += 1
        assert sample.roles == ("source",) and sample.facts["tag"] == op
        assert world.scene_of(sample.images[0]) == source
        kept = [thing for k, thing in enumerate(source.objects) if k not in named]
        assert all(thing in target.objects for thing in kept)
        assert (source.background != target.background) == (op == "background")
        change = len(target.objects) - len(source.objects)
        assert change == {"add": 1, "remove": -1}.get(op, 0)
        for k in named:
            shape = source.objects[k].shape
            assert shape in sample.prompt or sample.prompt == scene_orders.SHORT_SWAP
        before, after = world.image(sample.images[0]), world.image(sample.target)
        assert (sample.edit_mask == (before != after).any(0)).all()
        assert sample.edit_mask.any()
    assert ops == dict.fromkeys(OPS, 9)


def test_what_an_instruction_names_is_one_object(world):
    for index in range(world.num_samples("editing", "train")):
        sample = world.sample("editing", "train", index)
        source = Scene.from_dict(sample.facts["source_scene"])
        for k in sample.facts["edit"]["objects"]:
            thing = source.objects[k]
            if f"{thing.colour} {thing.shape}" in sample.prompt:
                alike = [o for o in source.objects if o.identity == thing.identity]
            elif sample.prompt == scene_orders.SHORT_SWAP:
                alike = [thing]
                assert len(source.objects) == 2
            else:
                alike = [o for o in source.objects if o.shape == thing.shape]
            assert alike == [thing], sample.prompt


def test_a_reference_keeps_its_identity_elsewhere(world):
    for sample in samples(world, "customised", "val"):
        (shown,) = world.scene_of(sample.images[0]).objects
        (wanted,) = Scene.from_dict(sample.facts["scene"]).objects
        assert shown.identity == wanted.identity and shown.mark is not None
        assert (shown.x, shown.y) != (wanted.x, wanted.y) and shown.size > wanted.size
        assert sample.facts["scene"]["background"] != "grey"


@pytest.mark.parametrize("counts", [(2, 3), (4, 7)])
def test_two_subjects_keep_order_and_relation(counts):
    """Also round the end of a split, where the first subject joins the last."""
    world = Scenes(num_scenes=counts[0], num_val=counts[1])
    for split in SPLITS:
        for sample in samples(world, "multi_subject", split):
            first, second = (world.scene_of(row).objects[0] for row in sample.images)
            objects = Scene.from_dict(sample.facts["scene"]).objects
            assert [o.identity for o in objects] == [first.identity, second.identity]
            assert first.shape != second.shape
            relation, to = sample.facts["include"][1]["position"]
            assert f" {relation} the second" in sample.prompt and to == 0
            assert sample.facts["include"][1]["class"] == first.shape


@pytest.mark.parametrize("shapes", [SMALL_SHAPES, SHAPES])
def test_held_out_combinations_leave_every_part_seen(shapes):
    for seed in range(20):
        held_out = HeldOut(shapes, seed)
        assert len(held_out.pairs) == len(shapes) * len(COLOURS) / 5
        per_shape = Counter(shape for shape, _ in held_out.pairs)
        per_colour = Counter(colour for _, colour in held_out.pairs)
        assert set(per_shape.values()) == {2}
        assert max(per_colour.values()) < len(shapes) / 2
        assert len(held_out.counts) == 3
        for relation, a, b in held_out.relations:
            assert (relation, b, a) not in held_out.relations
            opposite = {"left of": "right of", "above": "below"}
            opposite |= {value: key for key, value in opposite.items()}
            assert (opposite[relation], b, a) in held_out.relations


def test_a_violation_is_named(world):
    held_out = world.held_out
    shape, colour = sorted(held_out.pairs)[0]
    sample = world.sample("text_to_image", "train", 0)
    facts = json.loads(json.dumps(sample.facts))
    facts["scene"]["objects"][0] |= {"shape": shape, "colour": colour}
    assert "pair" in held_out.violations(facts)
    facts = sample.facts | {"held_out": {"phrasing": True}}
    assert held_out.violations(facts) == ["phrasing"]


def test_a_worker_gets_the_world_without_its_table(world):
    world.prepare()
    copy = pickle.loads(pickle.dumps(world))
    assert len(pickle.dumps(world)) < 20_000
    row = NUM_KINDS * 3 + ELSEWHERE
    assert (copy.image(row) == world.image(row)).all()
    assert copy.scene_of(row) == world.scene_of(row)
    assert copy.scene_of(NUM_KINDS + SCENE) == world.scene_of(NUM_KINDS + SCENE)
    assert copy.scene_of(SUBJECT).background == "grey"


def test_wrong_options_are_told_all_at_once():
    with pytest.raises(ConfigError) as error:
        Scenes(size=48, num_scenes=1, num_val=0, world_seed=-1)
    for key in ("size", "num_scenes", "num_val", "world_seed"):
        assert f"data.world.{key}" in str(error.value)


def test_captions_and_descriptions_fit_a_short_text(world):
    rng = np.random.default_rng(0)
    for row in range(0, world.num_images, 5):
        scene = world.scene_of(row)
        for text in (scene_text.description(scene), scene_text.caption(scene, rng)):
            assert len(text.split()) <= 40
            assert all(thing.colour in text and thing.shape in text for thing in scene.objects)
            assert scene.background in text
