"""The attribute reader: exact on renders, firm under noise, at chance on nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from qk_lightning.data.worlds.avatars import Avatars
from qk_lightning.evaluation.avatar_reader import AvatarReader

COUNT = 48
CHANCE = 0.302


pytestmark = pytest.mark.shared_root


@pytest.fixture(scope="module")
def world():
    return Avatars(num_identities=16, num_val=COUNT)


@pytest.fixture(scope="module")
def reader(world):
    return AvatarReader(world)


def val(world, task):
    """Return [B, 3, H, W] uint8 targets, facts, samples."""
    samples = [world.sample(task, "val", i) for i in range(COUNT)]
    return pictures(world, [s.target for s in samples]), [s.facts for s in samples], samples


def pictures(world, rows):
    return np.stack([world.image(row) for row in rows])


def mean(verdicts, part=None):
    values = [v.score if part is None else v.parts[part] for v in verdicts]
    return float(np.mean(values))


@pytest.mark.parametrize("task", ["text_to_image", "editing", "customised", "multi_subject"])
def test_reads_renders_exactly_and_through_noise(world, reader, task):
    images, facts, _ = val(world, task)
    assert reader.read(images, facts) == [fact["attributes"] for fact in facts]
    for verdict, fact in zip(reader.verdicts(images, facts), facts, strict=True):
        assert verdict.correct and verdict.score == 1 and not verdict.reason
        assert all(verdict.parts[name] == 1 for name in fact["attributes"])
        assert verdict.detections == [fact["attributes"]]
    noise = np.random.default_rng(0).normal(0, 0.1, images.shape)
    noisy = images.astype(np.float32) / 127.5 - 1 + noise
    assert all(verdict.correct for verdict in reader.verdicts(noisy, facts))


def test_is_at_chance_without_the_right_picture(world, reader):
    images, facts, _ = val(world, "text_to_image")
    for wrong in (np.full_like(images, 128), np.roll(images, 7, axis=0)):
        verdicts = reader.verdicts(wrong, facts)
        assert mean(verdicts) == pytest.approx(CHANCE, abs=0.08)
        assert not any(verdict.correct for verdict in verdicts)


def test_a_copied_source_has_all_that_was_kept_and_nothing_that_changed(world, reader):
    """Each attribute is read in the picture's own context, not in the one asked for."""
    _, facts, samples = val(world, "editing")
    copied = reader.verdicts(pictures(world, [s.images[0] for s in samples]), facts)
    assert (mean(copied, "changed"), mean(copied, "kept")) == (0, 1)
    assert copied[0].reason.startswith(f"expected {facts[0]['changed'][0]} ")
    captions = reader.verdicts(*val(world, "text_to_image")[:2])
    assert not {"changed", "kept", "rank1"} & captions[0].parts.keys()


def test_a_person_is_told_from_all_others_of_the_val_split(world, reader):
    images, facts, _ = val(world, "customised")
    verdicts = reader.verdicts(images, facts)
    assert mean(verdicts, "rank1") == mean(verdicts, "mrr") == 1
    strangers = reader.verdicts(np.roll(images, 7, axis=0), facts)
    assert mean(strangers, "rank1") < 0.1 and mean(strangers, "mrr") < 0.3
    blank = reader.verdicts(np.full_like(images, 128), facts)
    assert mean(blank, "rank1") < 0.1 and mean(blank, "mrr") > 0
    assert 20 < len(reader.people) <= COUNT


def test_two_people_that_changed_places_are_told_apart(world, reader):
    images, facts, _ = val(world, "multi_subject")
    swapped = np.concatenate([images[..., 16:], images[..., :16]], axis=-1)
    verdicts = reader.verdicts(swapped, facts)
    assert mean(verdicts, "background") == 1
    assert mean(verdicts, "left_hair_colour") < 0.4
    assert mean(verdicts) < 0.5


def test_takes_tensors_and_refuses_wrong_shapes(world, reader):
    images, facts, _ = val(world, "text_to_image")
    tensor = (torch.from_numpy(images[:2]) / 127.5 - 1).requires_grad_()
    assert [verdict.score for verdict in reader.verdicts(tensor, facts[:2])] == [1, 1]
    with pytest.raises(ValueError, match="one picture of the world's size for each"):
        reader.read(images[:2], facts[:3])
