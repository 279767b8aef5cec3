"""A mixture of worlds: rows, samples, weights, validation, latents, questions."""

from __future__ import annotations

import itertools
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_world import TinyWorld
from torch import nn

from qk_lightning.config.errors import ConfigError
from qk_lightning.data.collate import spread
from qk_lightning.data.latent_cache import LatentCache
from qk_lightning.data.mixture import BatchOrder
from qk_lightning.data.module import DataModule
from qk_lightning.data.worlds.mixture import Mixture
from qk_lightning.parts.base import Part

TASKS = {"text_to_image": 1.0, "editing": 1.0}


class OneTask(TinyWorld):
    """Text to image only, more samples than TinyWorld, and questions."""

    tasks = ("text_to_image",)
    counts = {("text_to_image", "train"): [((), 30)], ("text_to_image", "val"): [((), 9)]}

    def fingerprint(self):
        return "one" + super().fingerprint()

    def qa(self, index, split):
        return (None if index % 2 else index % 20), f"{split} {index}", "yes"

    def captions_for_tokenizer(self, num_drawn=2000):
        yield from ("yes", "no")


class Codec(Part):
    """Halves the picture."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.5))

    def encode(self, images):
        return images[:, :2, ::2, ::2] * self.scale


def _mixture(**weights):
    return Mixture.of({"tiny": TinyWorld(), "one": OneTask()}, weights)


def test_rows_and_samples_come_one_world_after_the_other():
    world = _mixture()
    assert [part.label for part in world.parts()] == ["one", "tiny"]
    assert world.num_images == 40 and world.tasks == ("text_to_image", "editing")
    assert world.num_samples("text_to_image", "train") == 40
    assert world.num_samples("editing", "train") == 12
    sample = world.sample("editing", "train", 9)
    assert sample.id == "tiny/editing-train-9" and sample.facts["world"] == "tiny"
    assert sample.images == (29, 30) and sample.target == 29
    assert world.part_of(sample).label == world.part_of(29).label == "tiny"
    assert world.part_of(19).label == "one"
    assert (world.image(29) == TinyWorld().image(9)).all()
    assert world.sample("text_to_image", "train", 40 + 30).id == "tiny/text_to_image-train-0"
    for row in (-1, 40):
        with pytest.raises(IndexError, match="40 images"):
            world.image(row)


def test_layouts_cover_the_samples_of_every_world():
    world = _mixture()
    for task, split in itertools.product(world.tasks, ("train", "val")):
        layouts = world.layouts(task, split)
        roles = [roles for roles, count in layouts for _ in range(count)]
        found = [world.sample(task, split, index).roles for index in range(len(roles))]
        assert len(roles) == world.num_samples(task, split) and found == roles


def _groups(world, tasks, steps, **options):
    order = BatchOrder(world, tasks, seed=3, global_batch_size=8, groups_per_step=2, **options)
    lists = itertools.islice(iter(order), steps * order.micro_batches_per_step)
    return [[world.sample(draw.task, "train", draw.index) for draw in part] for part in lists]


def test_a_world_is_drawn_by_its_weight_among_those_that_offer_the_task():
    groups = _groups(_mixture(one=3.0, tiny=1.0), {"text_to_image": 1.0, "editing": 3.0}, 2000)
    counts = Counter((group[0].task, group[0].facts["world"]) for group in groups)
    shares = {key: count / len(groups) for key, count in counts.items()}
    assert shares == pytest.approx(
        {
            ("text_to_image", "one"): 1 / 4 * 3 / 4,
            ("text_to_image", "tiny"): 1 / 4 * 1 / 4,
            ("editing", "tiny"): 3 / 4,
        },
        abs=0.025,
    )


def test_a_group_is_of_one_world_and_every_item_comes_once_before_any_again():
    groups = _groups(_mixture(), TASKS, 400)
    for group in groups:
        assert len({(sample.facts["world"], sample.task, sample.roles) for sample in group}) == 1
    ids = [sample.id for group in groups for sample in group]
    for first, count in (("one/", 30), ("tiny/text_to_image", 10)):
        of_layout = [name for name in ids if name.startswith(first)]
        epochs = [of_layout[i : i + count] for i in range(0, len(of_layout) - count + 1, count)]
        assert len(epochs) > 3 and all(len(set(epoch)) == count for epoch in epochs)


def test_one_world_alone_has_the_order_it_has_without_a_mixture():
    def drawn(world):
        order = BatchOrder(world, {"text_to_image": 1.0}, seed=3, global_batch_size=8)
        return [[draw.index for draw in part] for part in itertools.islice(iter(order), 5)]

    assert drawn(TinyWorld()) != drawn(Mixture.of({"tiny": TinyWorld()}))  # the label is drawn on
    off = _mixture(one=0.0)
    assert list(off.worlds) == ["tiny"] and off.num_images == 20
    assert drawn(off) == drawn(Mixture.of({"tiny": TinyWorld()}))


def test_starting_late_equals_the_straight_order():
    ids = [[s.id for s in group] for group in _groups(_mixture(), TASKS, 12)]
    late = [[s.id for s in group] for group in _groups(_mixture(), TASKS, 5, start_step=7)]
    assert late == ids[14:]


@pytest.mark.parametrize(
    ("count", "shares"), [(4, [2, 2]), (5, [3, 2]), (10, [7, 3]), (99, [9, 3])]
)
def test_validation_takes_equal_shares_and_fills_up(count, shares):
    world = _mixture(one=5.0)
    chosen = spread(world, "text_to_image", "val", count)
    assert [len(indices) for indices in chosen] == shares
    assert [indices[0] for indices in chosen] == [0, 9]
    editing = spread(world, "editing", "val", 3)
    assert editing == spread(TinyWorld(), "editing", "val", 3)


def test_validation_batches_are_of_one_world():
    data = DataModule(_mixture(), TASKS, 0, 8, num_val_samples=6)
    for batch in [*data.val_dataloader(), *data.val_batches("text_to_image", 6, 6)]:
        assert len({facts["world"] for facts in batch.facts}) == 1
    assert [b.batch_size for b in data.val_batches("text_to_image", 6, 6)] == [3, 3]


def test_latents_are_shared_with_the_worlds_alone(root: Path):
    alone = LatentCache.open(TinyWorld(), Codec())
    world, seen = _mixture(), []
    joined = LatentCache.open(world, Codec(), 8, lambda *progress: seen.append(progress))
    assert seen == [(8, 40), (16, 40), (20, 40)]  # the rest was there
    assert len(list((root / "runs/cache/latents").glob("*.safetensors"))) == 2
    assert (len(joined), joined.shape) == (40, (2, 2, 2))
    assert torch.equal(joined[[25, 3, 25]][::2], alone[[5, 5]])
    again = pickle.loads(pickle.dumps(joined))
    assert torch.equal(again[np.arange(40)], joined.table)
    with pytest.raises(IndexError):
        joined[[40]]
    batch = next(iter(DataModule(world, TASKS, 0, 8, latents=joined).train_dataloader()))
    assert batch.target_latents.shape == (8, 2, 2, 2)


def test_questions_are_of_the_worlds_that_can_be_asked():
    world = Mixture.of({"tiny": TinyWorld(), "x": OneTask(), "y": OneTask()}, {"y": 3.0})
    assert world.qa(1, "val") == (None, "val 1", "yes")
    labels = [world.asked(index) for index in range(4000)]
    assert labels.count("y") / 4000 == pytest.approx(0.75, abs=0.03) and "tiny" not in labels
    for index in range(0, 40, 2):
        row = world.qa(index, "train")[0]
        assert world.part_of(row).label == labels[index]
    assert list(world.captions_for_tokenizer(3)) == ["yes", "no"] * 2
    with pytest.raises(ConfigError, match="a world with questions"):
        Mixture.of({"tiny": TinyWorld()}).qa(0, "train")


def test_the_fingerprint_follows_worlds_and_labels():
    prints = {
        _mixture().fingerprint(),
        Mixture.of({"tiny": TinyWorld(), "two": OneTask()}).fingerprint(),
        Mixture.of({"tiny": TinyWorld(num_images=30), "one": OneTask()}).fingerprint(),
    }
    assert len(prints) == 3 and _mixture(one=7.0).fingerprint() in prints


def test_worlds_of_different_size_are_refused():
    with pytest.raises(ConfigError, match="one picture size"):
        Mixture.of({"a": TinyWorld(4), "b": TinyWorld(8)})
    with pytest.raises(ConfigError, match="world that is on"):
        Mixture.of({"a": TinyWorld()}, {"a": 0.0})
