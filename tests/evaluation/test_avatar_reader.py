"""The attribute reader: exact on renders, firm under noise, at chance on nothing."""

from __future__ import annotations

import numpy as np
import pytest

from qk_lightning.data.worlds.avatars import Avatars
from qk_lightning.evaluation.avatar_reader import AvatarReader

COUNT = 48


@pytest.fixture(autouse=True)
def _use_root(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("QK_ROOT", str(tmp_path_factory.getbasetemp() / "root"))


@pytest.fixture(scope="module")
def world():
    return Avatars(num_identities=16, num_val=COUNT)


@pytest.fixture(scope="module")
def reader(world):
    return AvatarReader(world)


def val(world, task):
    """Return [B, 3, H, W] float32 targets in [-1, 1], facts, samples."""
    samples = [world.sample(task, "val", i) for i in range(COUNT)]
    return pictures(world, [s.target for s in samples]), [s.facts for s in samples], samples


def pictures(world, rows):
    return np.stack([world.image(row) for row in rows]).astype(np.float32) / 127.5 - 1


@pytest.mark.parametrize("task", ["text_to_image", "editing", "customised", "multi_subject"])
def test_reads_renders_exactly_and_through_noise(world, reader, task):
    images, facts, _ = val(world, task)
    assert reader.read(images, facts) == [fact["attributes"] for fact in facts]
    assert reader.accuracy(images, facts).all_right == 1.0
    noise = np.random.default_rng(0).normal(0, 0.1, images.shape)
    noisy = reader.accuracy(images + noise, facts)
    assert noisy.mean == 1.0 and min(noisy.attributes.values()) >= 0.9


def test_is_at_chance_without_the_right_picture(world, reader):
    images, facts, _ = val(world, "text_to_image")
    blank = reader.accuracy(np.zeros_like(images), facts)
    shuffled = reader.accuracy(np.roll(images, 7, axis=0), facts)
    assert blank.chance == pytest.approx(0.302, abs=1e-3)
    assert blank.mean == pytest.approx(blank.chance, abs=0.08)
    assert shuffled.mean == pytest.approx(shuffled.chance, abs=0.08)
    assert shuffled.all_right == 0.0


def test_a_copied_source_has_all_that_was_kept_and_nothing_that_changed(world, reader):
    """Each attribute is read in the picture's own context, not in the one asked for."""
    _, facts, samples = val(world, "editing")
    copied = reader.accuracy(pictures(world, [s.images[0] for s in samples]), facts)
    assert copied.changed == 0.0 and copied.kept == 1.0


def test_two_people_that_changed_places_are_told_apart(world, reader):
    images, facts, _ = val(world, "multi_subject")
    swapped = np.concatenate([images[..., 16:], images[..., :16]], axis=-1)
    accuracy = reader.accuracy(swapped, facts)
    assert accuracy.attributes["background"] == 1.0
    assert accuracy.attributes["left_hair_colour"] < 0.4
    assert accuracy.mean < 0.5


def test_takes_tensors_and_refuses_wrong_shapes(world, reader):
    torch = pytest.importorskip("torch")
    images, facts, _ = val(world, "text_to_image")
    tensor = torch.from_numpy(images[:2]).requires_grad_()
    assert reader.accuracy(tensor, facts[:2]).mean == 1.0
    with pytest.raises(ValueError, match="one picture of the world's size for each"):
        reader.read(images[:2], facts[:3])


def test_knows_what_it_can_read(world, reader):
    assert reader.can_read(val(world, "customised")[1])
    assert not reader.can_read([]) and not reader.can_read([{"boxes": 1}])
