"""Who takes part in a run: one process, or several that began together (ranks).

Processes are started by torchrun, by SLURM, or by `sweeps/launch.py`, which sets what torchrun
sets. They join before anything is read, so that the first one decides for all.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from omegaconf import DictConfig
from torch import distributed

from qk_lightning.config.errors import ConfigError, Problem
from qk_lightning.config.rank_variables import RUN_ID, is_of_another
from qk_lightning.training.lost_ranks import RankLost, end_with_launcher, wait_for_key

Value = TypeVar("Value")
LAST_TO_LEAVE = timedelta(seconds=30)
log = logging.getLogger("qk_lightning")


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

    def largest(self, value: int) -> int:
        """Return the largest of all processes' numbers; all must call it.

        Args:
            value: this process's. It goes from CPU to CPU, so no GPU is waited for.
        """
        if not self.joined or self.world_size == 1:
            return value
        numbers = torch.tensor([value], dtype=torch.int32)
        distributed.all_reduce(numbers, distributed.ReduceOp.MAX)
        return int(numbers)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Say of a collective that broke that another process is gone.

        Raises:
            RankLost: one is.
        """
        try:
            yield
        except RuntimeError as error:
            if self.joined and is_of_another(str(error)):
                what = f"rank {self.rank} of {self.world_size} lost another one"
                why = "its log, or the launcher, says why"
                raise RankLost(f"{what} in a collective: {why}") from error
            raise

    def end_together(self, key: str) -> None:
        """Hold the others until the first process is here; no collective, which would time out.

        Args:
            key: names what ends; once a process group.

        Raises:
            RankLost: the first process is gone.
        """
        if not self.joined or self.world_size == 1:
            return
        store = distributed.distributed_c10d._get_default_store()
        others = [f"heard/{key}/{rank}" for rank in range(1, self.world_size)]
        if not self.is_first:
            wait_for_key(store, f"ended/{key}")
            store.set(others[self.rank - 1], "1")
            return
        store.set(f"ended/{key}", "1")
        try:
            store.wait(others, LAST_TO_LEAVE)  # the store may live in this process
        except RuntimeError as error:
            log.warning("the run is whole, but not every rank has heard of it: %s", error)


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
        if by_torchrun and os.environ["TORCHELASTIC_RUN_ID"] != RUN_ID:
            end_with_launcher()
        distributed.init_process_group(
            _backend(options.accelerator, started.local_rank()), rank=rank, world_size=world_size
        )
    return Ranks(rank, world_size, joined=True)


def _backend(accelerator: str, local_rank: int) -> str:
    if accelerator == "cpu" or not torch.cuda.is_available():
        return "gloo"
    torch.cuda.set_device(local_rank)
    return "cpu:gloo,cuda:nccl"
