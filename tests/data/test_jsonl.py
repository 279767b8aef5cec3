from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from PIL import Image

from qk_lightning.config.errors import ConfigError
from qk_lightning.data.collate import Collate
from qk_lightning.data.mixture import BatchOrder
from qk_lightning.data.worlds.jsonl import Jsonl

SOURCE = [{"path": "0.png", "role": "source"}]


@pytest.fixture(autouse=True)
def root(root):
    (root / "pictures").mkdir()
    for number in range(10):
        colour = (number * 20, 100, 255 - number * 20)
        Image.new("RGB", (40, 30), colour).save(root / f"pictures/{number}.png")
    return root


def _write(root, entries):
    text = "\n".join(e if isinstance(e, str) else json.dumps(e) for e in entries)
    (root / "pictures/list.jsonl").write_text(text + "\n")


def _open(root, entries, **options):
    _write(root, entries)
    return Jsonl(path="pictures/list.jsonl", size=16, **options)


def _captions(count=10):
    return [{"prompt": f"picture {n}", "target": f"{n}.png"} for n in range(count)]


def test_captioned_pictures(root):
    world = _open(root, _captions())
    assert world.tasks == ("text_to_image",) and world.num_images == 10
    assert world.num_samples("text_to_image", "train") == 9
    assert world.num_samples("text_to_image", "val") == 1
    samples = [world.sample("text_to_image", "train", index) for index in range(9)]
    samples.append(world.sample("text_to_image", "val", 0))
    assert {sample.prompt for sample in samples} == {f"picture {n}" for n in range(10)}
    for sample in samples:
        number = int(sample.prompt.split()[1])
        assert world.image(sample.target)[:, 8, 8].tolist() == [
            number * 20,
            100,
            255 - number * 20,
        ]


def test_tasks_follow_from_the_images_unless_named(root):
    reference = [{"path": "1.png", "role": "reference"}]
    entries = [
        {"prompt": "", "target": "2.png", "images": SOURCE},
        {"prompt": "", "target": "3.png", "images": SOURCE, "task": "transformation"},
        {"prompt": "", "target": "4.png", "images": reference, "facts": {"a": 1}, "id": "me"},
        {"prompt": "", "target": "5.png", "images": reference * 2, "task": "multi_subject"},
    ]
    with pytest.warns(UserWarning, match="one line only"):
        world = _open(root, entries)
    assert world.tasks == ("transformation", "editing", "customised", "multi_subject")
    sample = world.sample("customised", "train", 5)
    assert (sample.id, sample.roles, sample.facts) == ("me", ("reference",), {"a": 1})
    assert world.sample("customised", "val", 0) == sample


def test_lines_of_one_task_may_differ_in_roles(root):
    both = [*SOURCE, {"path": "1.png", "role": "reference"}]
    entries = [
        {"prompt": str(n), "target": f"{n}.png", "images": both if n % 3 else SOURCE}
        for n in range(10)
    ]
    world = _open(root, entries, val_fraction=0.3)
    sizes = dict(world.layouts("editing", "train"))
    assert set(sizes) == {("source",), ("source", "reference")}
    assert sum(sizes.values()) == world.num_samples("editing", "train")
    order = BatchOrder(world, {"editing": 1}, 0, 8, 2, 2)
    collate, seen = Collate(world), set()
    for draws, _ in zip(order, range(40), strict=False):
        seen.add(collate(draws).roles)  # refuses mixed roles
    assert seen == set(sizes)


def test_the_split_stays_when_lines_are_added_or_moved(root):
    def val_prompts(entries):
        world = _open(root, entries, val_fraction=0.3)
        count = world.num_samples("text_to_image", "val")
        return {world.sample("text_to_image", "val", n).prompt for n in range(count)}

    more = [{"prompt": f"picture {n}", "target": f"{n % 10}.png"} for n in range(60)]
    first = val_prompts(more)
    assert 5 <= len(first) <= 30
    assert val_prompts(more[::-1]) == first
    added = {"prompt": "a new one", "target": "0.png"}
    assert val_prompts([added, *more]) - {"a new one"} == first


def test_the_same_line_twice_counts_twice(root):
    world = _open(root, [_captions(1)[0]] * 3)
    assert world.num_samples("text_to_image", "train") == 2 and world.num_images == 1


def test_the_table_on_disk_equals_decoding(root, monkeypatch):
    entries, seen = _captions(), []
    direct, cached = _open(root, entries), _open(root, entries)
    cached.prepare(lambda done, total: seen.append((done, total)))
    assert seen[-1] == (10, 10)
    assert (root / f"runs/cache/worlds/{cached.fingerprint()}.npy").is_file()
    for row in range(10):
        assert (cached.image(row) == direct.image(row)).all()
    again = _open(root, entries)
    again.prepare(lambda *_: pytest.fail("decoded twice"))
    monkeypatch.setattr("qk_lightning.data.worlds.jsonl.IMAGE_TABLE_LIMIT", 10)
    large = _open(root, entries, val_fraction=0.2)
    large.prepare()
    assert not (root / f"runs/cache/worlds/{large.fingerprint()}.npy").exists()


def test_a_worker_gets_the_file_not_the_pixels(root):
    world = _open(root, _captions())
    unprepared = pickle.loads(pickle.dumps(world))
    world.prepare()
    assert len(pickle.dumps(world)) < 10 * 16 * 16 * 3
    copy = pickle.loads(pickle.dumps(world))
    for row in range(10):
        assert (copy.image(row) == world.image(row)).all()
        assert (unprepared.image(row) == world.image(row)).all()


def test_a_short_table_is_made_anew(root):
    world = _open(root, _captions())
    world.prepare()
    file = root / f"runs/cache/worlds/{world.fingerprint()}.npy"
    expected = np.load(file)
    file.write_bytes(file.read_bytes()[:-100])
    again = _open(root, _captions())
    with pytest.warns(UserWarning, match="made anew"):
        again.prepare()
    assert (np.load(file) == expected).all()


def test_the_fingerprint_follows_content_not_dates(root):
    first = _open(root, _captions()).fingerprint()
    (root / "pictures/3.png").touch()
    assert _open(root, _captions()).fingerprint() == first
    assert Jsonl(path="pictures/list.jsonl", size=8).fingerprint() != first
    Image.new("RGB", (40, 30), "red").save(root / "pictures/3.png")
    assert _open(root, _captions()).fingerprint() != first


def test_every_mistake_is_told_at_once(root):
    (root / "pictures/text.png").write_text("no picture")
    entries = [
        "{not json",
        "[1, 2]",
        {"target": "0.png"},
        {"prompt": 3, "target": "0.png"},
        {"prompt": "", "target": "0.png", "image": []},
        {"prompt": "", "target": "1.png", "images": [{"path": "0.png", "role": "sorce"}]},
        {"prompt": "", "target": "1.png", "images": [{"file": "0.png"}]},
        {"prompt": "", "target": "1.png", "images": SOURCE, "task": "edit"},
        {"prompt": "", "target": "1.png", "images": SOURCE, "task": "multi_subject"},
        {"prompt": "", "target": "1.png", "images": SOURCE, "task": "text_to_image"},
        {"prompt": "", "target": "1.png", "id": "same"},
        {"prompt": "", "target": "1.png", "id": "same"},
        {"prompt": "", "target": "none.png"},
        {"prompt": "", "target": "text.png"},
        {"prompt": "", "target": ""},
        {"prompt": "", "target": "1.png", "images": SOURCE * 2},
    ]
    with pytest.raises(ConfigError) as error:
        _open(root, entries)
    text = str(error.value)
    assert "15 problems" in text
    for number in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 13, 14, 15, 16):
        assert f"list.jsonl:{number}:" in text or f"list.jsonl:{number} =" in text
    for words in ("did you mean 'source'?", "did you mean 'images'?", "did you mean 'editing'?"):
        assert words in text
    assert "line 11 has it" in text and "an existing file" in text
    assert "at most one source" in text and 'make the others references: "role": "ref' in text


def test_twenty_mistakes_are_listed_and_the_rest_counted(root):
    with pytest.raises(ConfigError) as error:
        _open(root, ["{"] * 33)
    assert len(error.value.problems) == 21 and "and 13 more" in str(error.value)


@pytest.mark.parametrize("options", [{"size": 0}, {"val_fraction": 1.0}, {"path": "pictures"}])
def test_wrong_arguments(root, options):
    _write(root, _captions())
    with pytest.raises(ConfigError):
        Jsonl(**{"path": "pictures/list.jsonl", "size": 16, **options})


def test_an_empty_file(root):
    with pytest.raises(ConfigError, match="at least one line"):
        _open(root, [""])


def test_a_picture_cut_short_is_named(root):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    file = root / "pictures/0.jpg"
    Image.fromarray(noise).save(file)
    file.write_bytes(file.read_bytes()[:1500])
    with pytest.raises(ConfigError, match=r"0\.jpg"):
        _open(root, [{"prompt": "", "target": "0.jpg"}, *_captions(3)])
