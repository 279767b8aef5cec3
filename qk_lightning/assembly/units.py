"""Recomputing and compiling a part by its units, in place: names and LoRA stay as they are.

A unit's own `forward` is replaced, so hooks such as FSDP's stay outside of what is recomputed or
compiled. Not here: sharding (`shard.py`); a part's own option `gradient_checkpointing`, which
acts on units in training mode only, where these act wherever a gradient is computed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn
from torch.utils.checkpoint import checkpoint

from qk_lightning.config.errors import Problem
from qk_lightning.parts.base import Part
from qk_lightning.parts.vlms.inputs import fork

BACKEND = "inductor"  # of torch.compile
CACHE = "past_key_values"  # transformers' name for the cache that a block reads and grows


def prepare_units(parts: Mapping[str, Part], trainer: DictConfig) -> None:
    """Do what `trainer.compile` and `trainer.activation_checkpointing` say, before sharding.

    Args:
        parts: part by family, with LoRA added; changed in place.
        trainer: the section `trainer`.
    """
    for family in trainer.get("compile") or ():  # an older run has none
        for unit in parts[family].shard_units():
            unit.forward = torch.compile(unit.forward, backend=BACKEND)
    for family in trainer.get("activation_checkpointing") or ():
        for unit in parts[family].shard_units():
            unit.forward = recomputed(unit.forward)


def recomputed(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Let a unit keep its inputs alone and run again in the backward pass.

    A block that reads a key/value cache grows it. Each run gets its own copy of the cache as it
    was before, or the second one would find the block's keys there twice. So the cache that is
    given does not grow, which only decoding needs, and that has no gradient.

    Args:
        forward: a unit's.

    Returns:
        A function of the same arguments; without gradient it is `forward` itself.
    """

    @functools.wraps(forward)
    def _run(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        if kwargs.get(CACHE) is None:
            return checkpoint(forward, *args, use_reentrant=False, **kwargs)
        cache = fork(kwargs.pop(CACHE))

        def _read(*args: Any, **kwargs: Any) -> Any:
            return forward(*args, **kwargs, **{CACHE: fork(cache)})

        return checkpoint(_read, *args, use_reentrant=False, **kwargs)

    return _run


def unit_problems(parts: Mapping[str, nn.Module], trainer: DictConfig) -> list[Problem]:
    """Say which parts have no unit to recompute or compile.

    Args:
        parts: part by family, on any device.
        trainer: the section `trainer`.

    Returns:
        What is wrong.
    """
    problems = []
    for option in ("activation_checkpointing", "compile"):
        for family in trainer.get(option) or ():
            if family in parts and not parts[family].shard_units():  # type: ignore[operator]
                name = type(parts[family]).__name__
                expected = f"parts of several blocks; {name} is one"
                fix = f"leave {family} out: it is small, or it names no block in shard_units()"
                problems.append(Problem(f"trainer.{option}", family, expected, fix))
    return problems
