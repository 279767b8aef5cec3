"""Who takes part in a run: one process, or several that began together (ranks).

Processes are started by torchrun, by SLURM, or by `sweeps/launch.py`, which sets what torchrun
sets. They join before anything is read, so that the first one decides for all.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from omegaconf import DictConfig
from torch import distributed

from qk_lightning.config.errors import ConfigError, Problem

Value = TypeVar("Value")
LONGEST_WAIT = timedelta(days=30)  # for the first rank, while it scores


@dataclass(frozen=True)
class Ranks:
    """The processes of a run.

    Args:
        rank: this process, from 0.
        world_size: how many there are.
        joined: they are connected; False for a run in one process alone.
    """

    rank: int = 0
    world_size: int = 1
    joined: bool = False

    @property
    def is_first(self) -> bool:
        """Whether this process writes the run folder."""
        return self.rank == 0

    def from_first(self, decide: Callable[[], Value]) -> Value:
        """Let the first process decide for all.

        Args:
            decide: called in the first process alone; the result must be picklable.

        Returns:
            What it returned there.
        """
        if not self.joined:
            return decide()
        box = [decide() if self.is_first else None]
        distributed.broadcast_object_list(box, src=0)
        return box[0]  # type: ignore[return-value]

    def everyone(self, value: Value) -> list[Value]:
        """Gather a value of every process.

        Args:
            value: this process's; picklable.

        Returns:
            One a rank, in their order.
        """
        if not self.joined:
            return [value]
        values: list[Value | None] = [None] * self.world_size
        distributed.all_gather_object(values, value)
        return values  # type: ignore[return-value]

    def end_together(self, key: str) -> None:
        """Hold the others until the first process is here; no collective, which would time out.

        Args:
            key: names what ends; once a process group.
        """
        if not self.joined or self.world_size == 1:
            return
        store = distributed.distributed_c10d._get_default_store()
        others = [f"heard/{key}/{rank}" for rank in range(1, self.world_size)]
        if self.is_first:
            store.set(f"ended/{key}", "1")
            store.wait(others)  # the store lives in this process
        else:
            store.wait([f"ended/{key}"], LONGEST_WAIT)
            store.set(others[self.rank - 1], "1")


def join(options: DictConfig) -> Ranks:
    """Connect this process with the others of its run, if it was started with others.

    Args:
        options: the configuration's `trainer`.

    Returns:
        The ranks; a process alone gets the defaults.

    Raises:
        ConfigError: other processes were started than `trainer.devices` says.
    """
    from lightning.fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

    by_torchrun = TorchElasticEnvironment.detect()
    if not (by_torchrun or (options.devices > 1 and SLURMEnvironment.detect())):
        return Ranks()
    started = TorchElasticEnvironment() if by_torchrun else SLURMEnvironment()
    rank, world_size = started.global_rank(), started.world_size()
    if world_size == 1 and options.strategy != "fsdp":
        return Ranks()
    if world_size % options.devices or world_size < options.devices:
        expected = f"the processes of a node; {world_size} were started in all"
        fix = f"set trainer.devices={world_size} if they are on one machine"
        raise ConfigError(Problem("trainer.devices", options.devices, expected, fix))
    if not distributed.is_initialized():
        os.environ["MASTER_ADDR"] = started.main_address
        os.environ["MASTER_PORT"] = str(started.main_port)
        distributed.init_process_group(
            _backend(options.accelerator, started.local_rank()), rank=rank, world_size=world_size
        )
    return Ranks(rank, world_size, joined=True)


def _backend(accelerator: str, local_rank: int) -> str:
    if accelerator == "cpu" or not torch.cuda.is_available():
        return "gloo"
    torch.cuda.set_device(local_rank)
    return "cpu:gloo,cuda:nccl"
