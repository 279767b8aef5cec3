"""Bytes that a rank should hold between steps.

Weights, gradients, Adam's two moments and the average; not activations, and not what a unit
gathers while it computes. Under FSDP a tensor of r rows is cut by rows: of n ranks each holds
ceil(r / n), the last ones what is left.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from omegaconf import DictConfig
from torch import nn

from qk_lightning.assembly.shard import is_to_be_sharded

AVERAGE_BYTES = 4  # float32, whatever the weights are
COUNTER_BYTES = 4  # Adam counts each tensor's steps in a float32


@dataclass(frozen=True)
class Weight:
    """A parameter of a run.

    Args:
        shape: of the whole.
        itemsize: bytes of a number.
        learns: whether it trains.
        shared: whether ranks hold a shard each.
    """

    shape: tuple[int, ...]
    itemsize: int
    learns: bool
    shared: bool

    def numbers(self, world_size: int, rank: int) -> int:
        """Count the numbers that a rank holds.

        Args:
            world_size: ranks.
            rank: from 0.
        """
        rows, rest = (self.shape[0], self.shape[1:]) if self.shape else (1, ())
        if self.shared:
            most = -(-rows // world_size)
            rows = max(0, min(most, rows - rank * most))
        return rows * torch.Size(rest).numel()


def weights_of(parts: Mapping[str, nn.Module], trainer: DictConfig) -> list[Weight]:
    """List the parameters of a run.

    Args:
        parts: part by family, with LoRA added and the rest frozen, on any device.
        trainer: the section `trainer`; says whether they are sharded, and in what precision.
    """
    is_half = trainer.precision == "bf16-true"
    weights = []
    for part in parts.values():
        shared = trainer.strategy == "fsdp" and is_to_be_sharded(part)
        for p in part.parameters():
            itemsize = 2 if is_half and p.is_floating_point() else p.element_size()
            weights.append(Weight(tuple(p.shape), itemsize, p.requires_grad, shared))
    return weights


def expected_bytes(
    weights: Iterable[Weight], world_size: int = 1, rank: int = 0, averaged: bool = False
) -> dict[str, int]:
    """Work out what a rank holds, from shapes alone.

    weights: all of its numbers; gradients: those that train; optimizer: two moments of those, in
    their dtype, and a counter a tensor; average: float32 numbers of those.

    Args:
        weights: the run's.
        world_size: ranks.
        rank: from 0, which holds the most.
        averaged: whether there is an average (EMA).

    Returns:
        Bytes by purpose.
    """
    total = dict.fromkeys(("weights", "gradients", "optimizer", "average"), 0)
    for weight in weights:
        count = weight.numbers(world_size, rank)
        total["weights"] += count * weight.itemsize
        if weight.learns:
            total["gradients"] += count * weight.itemsize
            total["optimizer"] += 2 * count * weight.itemsize + COUNTER_BYTES
            total["average"] += count * AVERAGE_BYTES * averaged
    return total
