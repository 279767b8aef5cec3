from __future__ import annotations

import itertools
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from tiny_world import TinyWorld

from qk_lightning.config.errors import ConfigError
from qk_lightning.data.hashing import hash_uniform, mix, permutation
from qk_lightning.data.mixture import BatchOrder, check_batch_sizes

TASKS = {"text_to_image": 1.0, "editing": 1.0}


def _order(**changes):
    given = {"seed": 3, "global_batch_size": 24, "groups_per_step": 3, **changes}
    return BatchOrder(TinyWorld(), given.pop("tasks", TASKS), **given)


def _steps(order, count):
    """The draws of `count` steps, flat."""
    lists = itertools.islice(iter(order), count * order.micro_batches_per_step)
    return [draw for part in lists for draw in part]


def test_ranks_and_micro_batches_do_not_change_a_step():
    straight = _steps(_order(), 6)
    assert [draw.global_index for draw in straight] == list(range(6 * 24))
    for world_size, micro in itertools.product((1, 2, 4), (1, 2, None)):
        orders = [
            _order(rank=rank, world_size=world_size, micro_batch_size=micro)
            for rank in range(world_size)
        ]
        union = [draw for order in orders for draw in _steps(order, 6)]
        assert sorted(union, key=lambda draw: draw.global_index) == straight


def test_a_rank_takes_a_contiguous_part_of_each_group():
    first = _steps(_order(rank=1, world_size=2, micro_batch_size=2), 1)
    assert [draw.global_index for draw in first] == [4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23]


def test_all_ranks_have_the_same_layout_at_the_same_time_and_one_a_list():
    world = TinyWorld()
    ranks = [_order(rank=rank, world_size=2, micro_batch_size=2) for rank in range(2)]
    lists = zip(*(itertools.islice(iter(order), 40) for order in ranks), strict=True)
    for parts in lists:
        samples = [world.sample(d.task, "train", d.index) for part in parts for d in part]
        assert len({(sample.task, sample.roles) for sample in samples}) == 1


def test_starting_late_equals_the_straight_order():
    straight = _steps(_order(), 12)
    assert _steps(_order(start_step=7), 5) == straight[7 * 24 :]


def test_every_item_once_before_any_repeats_in_another_order_each_epoch():
    draws = _steps(_order(), 40)
    for task, low, high in (("text_to_image", 0, 10), ("editing", 0, 7), ("editing", 7, 12)):
        items = [d.index for d in draws if d.task == task and low <= d.index < high]
        count = high - low
        epochs = [items[i : i + count] for i in range(0, len(items) - count + 1, count)]
        assert len(epochs) > 3
        assert all(sorted(epoch) == list(range(low, high)) for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) > 1


def test_layouts_are_drawn_by_weight_and_size():
    order = _order(
        tasks={"text_to_image": 1.0, "editing": 3.0}, groups_per_step=1, global_batch_size=1
    )
    steps = 4000
    draws = _steps(order, steps)
    samples = [TinyWorld().sample(draw.task, "train", draw.index) for draw in draws]
    counts = Counter(sample.roles for sample in samples)
    expected = {(): 1 / 4, ("source",): 3 / 4 * 7 / 12, ("source", "reference"): 3 / 4 * 5 / 12}
    for roles, share in expected.items():
        assert counts[roles] / steps == pytest.approx(share, abs=0.025)


def test_seed_and_nothing_else_changes_the_order():
    assert _steps(_order(seed=4), 4) != _steps(_order(), 4)
    swapped = {"editing": 2.0, "text_to_image": 2.0, "customised": 0.0}
    assert _steps(_order(tasks=swapped), 4) == _steps(_order(), 4)


def test_the_order_is_pinned():
    # A change here would silently change every run and break resumed ones.
    found = [(draw.task, draw.index) for draw in _steps(_order(), 1)][::4]
    assert found == [
        *[("text_to_image", index) for index in (6, 3, 1, 8)],
        ("editing", 6),
        ("editing", 0),
    ]
    assert mix(1, 2).tolist() == [13608149317741381227]


def test_hash_is_splitmix64():
    assert mix(0).tolist() == [0xE220A8397B1DCDAF]  # the published first output for seed 0
    assert mix(-1).tolist() == mix(2**64 - 1).tolist()


@pytest.mark.parametrize("count", [1, 2, 3, 10, 1000])
def test_permutation_is_one_to_one(count):
    assert sorted(permutation(count, 5).tolist()) == list(range(count))


def test_permutation_has_no_favourite_places():
    firsts = np.bincount([permutation(10, 9, epoch)[0] for epoch in range(5000)], minlength=10)
    assert abs(firsts / 500 - 1).max() < 0.2
    assert abs(hash_uniform(mix(9, np.arange(20_000))).mean() - 0.5) < 0.01


@pytest.mark.parametrize(
    ("sizes", "key", "fix"),
    [
        ((30, 4, None, 1), "trainer.global_batch_size", "data.groups_per_step=2"),
        ((30, 3, None, 4), "trainer.global_batch_size", "trainer.global_batch_size=24"),
        ((32, 2, 6, 1), "trainer.micro_batch_size", "trainer.micro_batch_size=2"),
        ((32, 0, None, 1), "data.groups_per_step", ""),
        ((2, 4, None, 1), "trainer.global_batch_size", "trainer.global_batch_size=4"),
    ],
)
def test_sizes_that_do_not_divide(sizes, key, fix):
    (problem,) = check_batch_sizes(*sizes)
    assert problem.key == key and fix in problem.fix


def test_all_mistakes_at_once():
    tasks = {"text2image": 1.0, "editing": -1.0, "customised": 1.0}
    with pytest.raises(ConfigError) as error:
        _order(tasks=tasks, global_batch_size=25)
    text = str(error.value)
    assert "4 problems" in text and "did you mean 'text_to_image'?" in text
    assert "data.tasks.editing" in text and "data.tasks.customised=0" in text


@pytest.mark.parametrize("tasks", [{}, {"editing": 0.0}, {"editing": float("nan")}])
def test_no_weight_at_all(tasks):
    with pytest.raises(ConfigError, match="data.tasks"):
        _order(tasks=tasks)


def test_the_order_is_made_without_torch():
    code = "import sys, qk_lightning.data.mixture; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
