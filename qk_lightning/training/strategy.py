"""Strategies by our names: `fsdp` is FSDP2 on GPUs and on CPU ranks, `ddp` is Lightning's.

A checkpoint is one file of what trains and of the optimiser's state, whole and in the optimiser's
own order, so that one process, ddp and fsdp read each other's. Sharding is in assembly/shard.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from torch import Tensor
from torch.optim import Optimizer

from qk_lightning.assembly.shard import is_sharded, like, load_trained, trained_whole, whole
from qk_lightning.training.ranks import Ranks


def make_strategy(name: str, ranks: Ranks) -> Strategy | str:
    """Return what Lightning's Trainer takes as its strategy.

    Args:
        name: `trainer.strategy`; auto is ddp where there are several ranks.
        ranks: the run's processes.

    Returns:
        A strategy; "auto" for a process alone, where the name has no effect.
    """
    if not ranks.joined:
        return "auto"
    if name == "fsdp":
        return ShardedStrategy(ranks.world_size)
    # Some parameters have no part in some steps: a vision tower's LoRA where no image is read.
    return DDPStrategy(find_unused_parameters=True)


class ShardedStrategy(ModelParallelStrategy):
    """FSDP2: the system's `configure_model` shards its parts on this strategy's mesh.

    Lightning's own class keeps frozen weights in its checkpoints, and cannot read those of other
    strategies into an optimiser that has not all parameters.

    Args:
        world_size: number of ranks; all of them hold other data.
    """

    def __init__(self, world_size: int) -> None:
        super().__init__(
            data_parallel_size=world_size, tensor_parallel_size=1, save_distributed_checkpoint=False
        )

    def model_to_device(self) -> None:
        """Move what is whole; shards are where `fully_shard` keeps them, on the host or not."""
        assert self.model is not None
        for part in self.model.children():
            if not any(is_sharded(p) for p in part.parameters()):
                part.to(self.root_device)

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Lightning hands the optimiser's state over, as to one process."""
        return True

    def load_checkpoint(
        self, checkpoint_path: Any, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint, each rank the whole file.

        Args:
            checkpoint_path: written by any strategy.
            weights_only: not used: nothing but tensors and plain values is ever read.

        Returns:
            Its content, on the CPU.
        """
        return Strategy.load_checkpoint(self, checkpoint_path, weights_only=True)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return what trains, whole, in the first process; {} in the others."""
        assert self.lightning_module is not None
        return trained_whole(self.lightning_module, keep=self.is_global_zero)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Put a checkpoint's tensors into this rank's shards.

        Args:
            checkpoint: with `state_dict`: what trains.
            strict: not used; the system has checked the names.
        """
        assert self.lightning_module is not None
        load_trained(self.lightning_module, checkpoint["state_dict"])

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return an optimiser's state with whole tensors in the first process; {} in the others.

        Args:
            optimizer: over sharded parameters.
        """
        inner = optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        state = inner.state_dict()
        gathered: dict[int, dict[str, Any]] = {}
        for number, values in state["state"].items():
            of_one = {key: _gather(value) for key, value in values.items()}
            if self.is_global_zero:
                gathered[number] = of_one
        return {**state, "state": gathered} if self.is_global_zero else {}

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Cut whole states as the parameters are cut.

        Args:
            checkpoint: with `optimizer_states`, numbered in the optimiser's own order.
        """
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            cut = {
                number: {key: _cut(value, parameters[number]) for key, value in values.items()}
                for number, values in state["state"].items()
            }
            optimizer.load_state_dict({**state, "state": cut})


def _gather(value: Any) -> Any:
    return whole(value).cpu() if isinstance(value, Tensor) else value


def _cut(value: Any, parameter: Tensor) -> Any:
    is_moment = isinstance(value, torch.Tensor) and value.shape == parameter.shape
    return like(value, parameter) if is_moment else value
