"""Sharding, the average of shards, and what stops ranks that would drift apart."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from two_ranks import on_ranks

from qk_lightning.assembly.shard import is_sharded, load_trained, shard_part, trained_whole
from qk_lightning.parts.base import Part
from qk_lightning.parts.queries.learnable import Learnable
from qk_lightning.training.ema import EMACallback
from qk_lightning.training.rank_check import (
    RankError,
    batch_problems,
    check_parts,
    disagreements,
    unsharded,
)
from qk_lightning.training.ranks import join

STEPS = 7
OPTIONS = SimpleNamespace(devices=2, strategy="fsdp", accelerator="cpu")


class Blocks(Part):
    """Two blocks and a table of odd length beside them; the second block is frozen."""

    forward_methods = ("again",)

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(nn.Linear(5, 5) for _ in range(2))
        self.table = nn.Parameter(torch.randn(3, 5))
        self.blocks[1].requires_grad_(False)

    def shard_units(self) -> list[nn.Module]:
        return list(self.blocks)

    def forward(self, states):
        return self.blocks[1](self.blocks[0](states)) + self.table.sum(0)

    def again(self, states):
        return self(states)


class Owner(LightningModule):
    def __init__(self, part):
        super().__init__()
        self.part = part


def averages(owner, is_first):
    """Average the weights of some made-up steps; return the average of each, whole."""
    average = EMACallback(0.9)
    trainer = SimpleNamespace(global_step=0, is_global_zero=is_first)
    average.on_train_start(trainer, owner)
    optimizer = torch.optim.AdamW(
        [p for p in owner.parameters() if p.requires_grad], lr=0.1, foreach=True
    )
    for step in range(1, STEPS + 1):
        owner.part.again(torch.linspace(-1, step, 10).view(2, 5)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        trainer.global_step = step
        average.on_train_batch_end(trainer, owner, None, None, 0)
    kept = average.state_dict()["shadow"]
    average.swap(owner)
    swapped = trained_whole(owner)
    average.swap(owner)
    resumed = EMACallback(0.9)
    resumed.load_state_dict({"shadow": swapped})
    resumed.on_train_start(trainer, owner)
    return {
        "kept": {n: t.numpy().copy() for n, t in kept.items()},
        "swapped": {n: t.numpy().copy() for n, t in swapped.items()},
        "resumed": {n: t.numpy().copy() for n, t in resumed.state_dict()["shadow"].items()},
        "back": {n: t.numpy().copy() for n, t in trained_whole(owner).items()},
    }


def sharded_averages():
    ranks = join(OPTIONS)
    part = Blocks()
    shard_part(part, init_device_mesh("cpu", (2,)))
    assert all(is_sharded(p) for p in part.parameters())
    return averages(Owner(part), ranks.is_first)


@pytest.mark.distributed
def test_the_average_of_shards_is_the_average():
    first, second = on_ranks(sharded_averages)
    alone = averages(Owner(Blocks()), True)
    assert second["kept"] == {} and second["swapped"].keys() == first["swapped"].keys()
    for kind, expected in alone.items():
        assert first[kind].keys() == expected.keys()
        for name, value in expected.items():
            assert (first[kind][name] == value).all(), (kind, name)


def two_copies(seed_by_rank):
    ranks = join(OPTIONS)
    torch.manual_seed(ranks.rank if seed_by_rank else 0)
    parts = {"queries": Learnable(num_queries=4, hidden_size=6)}
    try:
        check_parts(parts, ranks)
    except RankError as error:
        return str(error)
    return ""


@pytest.mark.distributed
def test_ranks_that_built_other_weights_stop():
    assert on_ranks(two_copies, False) == ["", ""]
    for said in on_ranks(two_copies, True):
        assert "queries.table differs between ranks" in said


def one_left_out():
    join(OPTIONS)
    owner = Owner(Blocks())
    shard_part(owner.part, init_device_mesh("cpu", (2,)))
    whole_before = unsharded(owner)
    owner.table = nn.Parameter(torch.zeros(2))
    load_trained(owner.part, trained_whole(owner.part))
    return whole_before, unsharded(owner)


@pytest.mark.distributed
def test_a_parameter_outside_the_shards_is_named():
    for before, after in on_ranks(one_left_out):
        assert before == []
        assert after == ["table trains and is not sharded"]


def test_what_ranks_may_not_differ_in():
    good = ("editing", ("source",), (2, 1, 3, 32, 32)), [0, 1], [0.5]
    other = ("editing", ("source",), (2, 1, 3, 32, 32)), [2, 3], [0.5]
    assert batch_problems([good, other]) == []
    bad = ("text_to_image", (), None), [1, 2], [0.6]
    assert [text.partition(":")[0] for text in batch_problems([good, bad])] == [
        "micro-batches differ in task, roles or sizes",
        "a sample is on two ranks",
        "noise follows the rank, not the sample",
    ]
    assert disagreements([{"a": "1", "b": "2"}, {"a": "1"}]) == ["b differs between ranks"]
