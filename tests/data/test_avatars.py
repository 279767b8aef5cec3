"""The avatars world: exact captions, aligned edits, disjoint and held-out splits."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from qk_lightning.config.errors import ConfigError
from qk_lightning.data.sample import TASKS
from qk_lightning.data.worlds import avatar_text
from qk_lightning.data.worlds.avatar_art import AvatarRenderer, _box_average, _draw
from qk_lightning.data.worlds.avatar_people import NUM_KINDS, PAIR
from qk_lightning.data.worlds.avatar_tables import MICAH
from qk_lightning.data.worlds.avatars import Avatars

SPLITS = ("train", "val")

pytestmark = pytest.mark.shared_root


@pytest.fixture(scope="module")
def world():
    return Avatars(num_identities=16, num_val=16)


def all_samples(world, task, split):
    return [world.sample(task, split, i) for i in range(world.num_samples(task, split))]


@pytest.fixture(scope="module")
def big_world():
    """Never drawn: only its people are looked at."""
    return Avatars(num_identities=600, num_val=96)


def test_prepare_writes_the_whole_table_once(world, root):
    done = []
    world.prepare(lambda *counts: done.append(counts))
    assert world.num_images == 4 * (16 + 16)
    files = list((root / "runs/cache/worlds").glob("avatars-*.npy"))
    assert files == [world.table_path]
    assert np.load(world.table_path).shape == (world.num_images, 3, 32, 32)
    assert done in ([], [(i + 1, world.num_images) for i in range(world.num_images)])
    written = world.table_path.stat().st_mtime_ns
    Avatars(num_identities=16, num_val=16).prepare()
    assert world.table_path.stat().st_mtime_ns == written


def test_a_table_cut_short_is_made_anew():
    given = {"num_identities": 2, "num_val": 2}
    world = Avatars(**given)
    world.prepare()
    expected = np.load(world.table_path)
    world.table_path.write_bytes(world.table_path.read_bytes()[:-100])
    with pytest.warns(UserWarning, match="made anew"):
        assert (Avatars(**given).image(1) == expected[1]).all()
    assert (np.load(world.table_path) == expected).all()


def test_rows_are_the_renders_of_their_attributes(world):
    fresh = AvatarRenderer(style="micah", size=32)
    for row in (0, 1, 2, 3, 70, 127):
        assert (world.image(row) == fresh.image(world.people.attributes_of(row))).all()
        assert world.image(row).dtype == np.uint8


def test_weighted_layers_equal_a_drawing_in_colour(world):
    """The linear renderer agrees with drawing the coloured SVG to 1.5 of 255 levels."""
    words = {**world.people.attributes_of(0), "beard": "yes", "glasses": "yes"}
    options = dict(MICAH.fixed)
    for name, attribute in MICAH.attributes.items():
        value = attribute.options[words[name]]
        options |= {p: [value] for p in attribute.paints} if attribute.is_paint else value
    drawing = _box_average(_draw(MICAH.file, options, 96), 32)
    colour = MICAH.attributes["background"].options[words["background"]]
    plane = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])[:, None, None]
    expected = 255 * drawing[:3] + (1 - drawing[3]) * plane
    assert np.abs(world.renderer.image(words) - expected).max() < 1.5


def test_every_attribute_shows_whatever_the_others_are(world):
    rng = np.random.default_rng(0)
    table = world.renderer.attributes
    for _ in range(40):
        words = {n: a.words[rng.integers(len(a.words))] for n, a in table.items()}
        for name, attribute in table.items():
            images = [world.renderer.image({**words, name: w}).astype(int) for w in attribute.words]
            gaps = [np.abs(a - b).sum() for i, a in enumerate(images) for b in images[:i]]
            assert min(gaps) > 150, (name, words)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("task", TASKS)
def test_samples_are_pure_and_complete(world, task, split):
    count = world.num_samples(task, split)
    other = Avatars(num_identities=16, num_val=16)
    ids = set()
    for index, sample in enumerate(all_samples(world, task, split)):
        again = other.sample(task, split, index + count)
        assert (sample.id, sample.prompt, sample.images, sample.facts) == (
            again.id,
            again.prompt,
            again.images,
            again.facts,
        )
        ids.add(sample.id)
        assert sample.facts["attributes"] == world.people.attributes_of(sample.target)
        assert sample.prompt == sample.prompt.lower()
        assert 2 <= len(sample.prompt.split()) <= 40
        rows = {row // NUM_KINDS for row in (*sample.images, sample.target)}
        assert all((identity < 16) == (split == "train") for identity in rows)
    assert len(ids) == count
    assert sum(number for _, number in world.layouts(task, split)) == count


def test_captions_say_every_attribute(world):
    """From the caption alone, the words come back: nothing is missing, nothing is wrong."""
    seen = Counter()
    for sample in all_samples(world, "text_to_image", "train"):
        words, prompt = sample.facts["attributes"], sample.prompt
        assert re.search(rf"\b{words['skin']} skin|skin is {words['skin']}\b", prompt)
        assert avatar_text.STYLED_HAIR[words["hair_style"]].format(words["hair_colour"]) in prompt
        assert words["expression"] in prompt
        assert re.search(rf"{words['shirt']} shirt|the shirt {words['shirt']}", prompt)
        assert re.search(
            rf"{words['background']} background|background is {words['background']}", prompt
        )
        for name in ("beard", "glasses"):
            said = name in prompt and not re.search(rf"(no|without a|without) {name}", prompt)
            assert said == (words[name] == "yes"), (name, prompt)
        seen[prompt.split()[0]] += 1
    assert len(seen) >= 5


def test_edits_change_one_attribute_and_only_its_pixels(world):
    for split in SPLITS:
        for sample in all_samples(world, "editing", split):
            after, before = sample.facts["attributes"], sample.facts["source_attributes"]
            (name,) = sample.facts["changed"]
            assert {n for n in after if after[n] != before[n]} == {name}
            assert sample.prompt in avatar_text.instructions(name, after[name])
            source, target = world.image(sample.images[0]), world.image(sample.target)
            assert sample.edit_mask.any() and sample.roles == ("source",)
            assert (source[:, ~sample.edit_mask] == target[:, ~sample.edit_mask]).all()


def test_customised_keeps_the_identity_and_says_the_state(world):
    identity = [n for n, a in world.renderer.attributes.items() if a.identity]
    for sample in all_samples(world, "customised", "train"):
        after, before = sample.facts["attributes"], sample.facts["source_attributes"]
        assert all(after[name] == before[name] for name in identity)
        assert len(sample.facts["changed"]) >= 2 and sample.roles == ("reference",)
        assert all(after[n] in sample.prompt for n in ("expression", "shirt", "background"))


def test_multi_subject_shows_both_references(world):
    for sample in all_samples(world, "multi_subject", "val"):
        pair = sample.facts["attributes"]
        for side, row in zip(("left", "right"), sample.images, strict=True):
            person = world.people.attributes_of(row)
            assert all(pair[f"{side}_{n}"] == w for n, w in person.items() if n != "background")
        assert sample.target % NUM_KINDS == PAIR and pair["background"] in sample.prompt
        assert sample.images[0] != sample.images[1]


def test_held_out_pairs_are_never_in_train_and_often_in_val(big_world):
    people = big_world.people
    assert len(people.held_out) == 4
    rows = range(big_world.num_images)
    held = np.array([people.is_held_out(people.attributes_of(row)) for row in rows])
    seen = np.reshape(held, (-1, NUM_KINDS))
    assert not seen[:600].any()
    assert (seen[600:].mean(0) > 0.1).all() and (seen[600:].mean(0) < 0.5).all()


def test_nobody_of_val_is_in_train(big_world):
    people = big_world.people
    looks = np.array(
        [people.is_new(people.attributes_of(row)) for row in range(big_world.num_images)]
    )
    assert not looks[: NUM_KINDS * 600].any() and looks[NUM_KINDS * 600 :].all()
    for split, kinds in (("train", []), ("val", ["identity"])):
        for task in ("editing", "multi_subject"):
            sample = big_world.sample(task, split, 0)
            assert big_world.violations(sample)[-1:] == kinds
            assert sample.facts["held_out"]["identity"] == bool(kinds)


def test_attributes_are_balanced_in_train(big_world):
    for name, attribute in big_world.renderer.attributes.items():
        words = [big_world.people.attributes_of(NUM_KINDS * i)[name] for i in range(600)]
        for word in attribute.words:
            assert words.count(word) / 600 == pytest.approx(1 / len(attribute.words), rel=0.35)


def test_questions_have_exact_answers(world):
    kinds = Counter()
    for index in range(400):
        row, text, answer = world.qa(index, "val")
        question = world.question(index, "val")
        assert question.as_asked == (row, text, answer)
        kinds[question.kind] += 1
        if row is None:
            continue
        assert row // NUM_KINDS >= 16
        words = world.people.attributes_of(row)
        kinds["pair" if row % NUM_KINDS == PAIR else "one"] += 1
        if question.kind == "look":
            assert answer in words.values()
        elif question.kind == "describe":
            assert answer == avatar_text.description(words)
        else:  # an instruction
            assert question.kind == "draw" and answer != avatar_text.description(words)
    assert min(kinds.values()) > 20
    assert kinds["describe"] + kinds["draw"] == pytest.approx(0.4 * 400, rel=0.2)


def test_tokenizer_texts_hold_every_word_of_every_sample(world):
    known = set(re.findall(r"\w+", " ".join(world.captions_for_tokenizer(num_drawn=0))))
    for task in TASKS:
        for split in SPLITS:
            for sample in all_samples(world, task, split):
                assert set(re.findall(r"\w+", sample.prompt)) <= known
    for index in range(200):
        assert set(re.findall(r"\w+", " ".join(world.qa(index, "train")[1:]))) <= known


def test_fingerprint_follows_what_decides_the_pixels():
    prints = [
        Avatars(**options).fingerprint()
        for options in ({}, {"world_seed": 1}, {"size": 48}, {"num_identities": 9}, {"num_val": 9})
    ]
    assert len(set(prints)) == len(prints) and Avatars().fingerprint() == prints[0]


def test_other_sizes_and_pickling(world):
    big = Avatars(size=64, num_identities=2, num_val=2)
    assert big.image(3).shape == (3, 64, 64)
    copy = pickle.loads(pickle.dumps(world))
    assert copy._table is None and (copy.image(5) == world.image(5)).all()


def test_all_mistakes_are_told_at_once():
    with pytest.raises(
        ConfigError, match=r"(?s)2 problems.*data.world.size = 30.*data.world.num_val = 1"
    ):
        Avatars(size=30, num_val=1)


def test_no_torch_is_imported():
    code = "import sys, qk_lightning.data.worlds.avatars; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
