"""Sharding parts over ranks (FSDP2), and the way between shards and whole tensors.

A part is a root of its own and its blocks are units, with their LoRA inside; the system owns no
parameter and is not sharded. Not here: how a large part's weights reach its shards
(`scatter.py`), who the ranks are and what is saved (`training/`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from qk_lightning.parts.base import Part

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

# Parameters of the largest frozen part that each rank keeps whole: gathering it costs more.
REPLICATED = 20_000_000


@dataclass(frozen=True)
class Sharding:
    """How FSDP2 gathers and keeps shards.

    Args:
        unit_dtype: dtype that the weights of units are gathered and used in; None for their own.
            Shards, gradients that are summed over ranks, and Adam's moments keep the weights'.
        cpu_offload: keep shards, gradients and Adam's moments in the host's memory.
    """

    unit_dtype: torch.dtype | None = None
    cpu_offload: bool = False

    @classmethod
    def of(cls, trainer: DictConfig) -> Sharding:
        """Read it from a configuration.

        Args:
            trainer: the section `trainer`.
        """
        half = torch.bfloat16 if trainer.precision == "bf16-mixed" else None
        return cls(half, bool(trainer.get("cpu_offload")))

    def of_unit(self) -> dict[str, Any]:
        """Return what `fully_shard` is told of a unit.

        Inputs are not cast: Lightning's autocast chooses by operation, as in one process, and
        positions stay float32.
        """
        from torch.distributed.fsdp import MixedPrecisionPolicy

        if self.unit_dtype is None:
            return self.of_root()
        policy = MixedPrecisionPolicy(
            param_dtype=self.unit_dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
        )
        return {**self.of_root(), "mp_policy": policy}

    def of_root(self) -> dict[str, Any]:
        """Return what `fully_shard` is told of a part and of norms."""
        from torch.distributed.fsdp import CPUOffloadPolicy

        return {"offload_policy": CPUOffloadPolicy()} if self.cpu_offload else {}


def shard_parts(
    parts: Mapping[str, Part], mesh: DeviceMesh, sharding: Sharding = Sharding()
) -> None:
    """Shard what trains, and frozen parts that are large; small frozen ones stay whole.

    Args:
        parts: part by family, with LoRA added and the rest frozen; changed in place. What is on
            the meta device stays there.
        mesh: one dimension of ranks.
        sharding: how shards are gathered and kept.
    """
    for part in parts.values():
        if is_to_be_sharded(part):
            shard_part(part, mesh, sharding)


def is_to_be_sharded(part: nn.Module) -> bool:
    """Tell whether ranks share a part: it trains, or is large.

    Args:
        part: with LoRA added and the rest frozen.
    """
    return any(p.requires_grad for p in part.parameters()) or is_large(part)


def is_large(part: nn.Module) -> bool:
    """Tell whether a part is too large to stand on each rank whole.

    Args:
        part: any module.
    """
    return sum(p.numel() for p in part.parameters()) > REPLICATED


def shard_part(part: Part, mesh: DeviceMesh, sharding: Sharding = Sharding()) -> None:
    """Shard one part: its units from the inside out, then what is left of it.

    Shards are put back after each forward pass, the root's too: between passes a parameter is
    always its shard, whoever looks (the optimiser, the average, a checkpoint).

    Args:
        part: changed in place; its class becomes a subclass.
        mesh: one dimension of ranks.
        sharding: how shards are gathered and kept. With a `unit_dtype`, norms in a unit are units
            of their own, which compute in their own dtype; so does what is in no unit.
    """
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    units = {id(unit) for unit in part.shard_units()}
    order = [module for module in part.modules() if id(module) in units]
    for unit in reversed(order):
        for norm in _norms(unit) if sharding.unit_dtype else ():
            fully_shard(norm, mesh=mesh, reshard_after_forward=True, **sharding.of_root())
        fully_shard(unit, mesh=mesh, reshard_after_forward=True, **sharding.of_unit())
    fully_shard(part, mesh=mesh, reshard_after_forward=True, **sharding.of_root())
    for name in part.forward_methods:
        if hasattr(part, name):
            register_fsdp_forward_method(part, name)


def _norms(unit: nn.Module) -> list[nn.Module]:
    """List what scales and shifts in float32: modules that hold vectors and nothing else."""
    from torch.distributed.fsdp import FSDPModule

    found = []
    for module in unit.modules():
        own = list(module.parameters(recurse=False))
        vectors = bool(own) and all(p.ndim == 1 and p.dtype == torch.float32 for p in own)
        if vectors and not any(True for _ in module.children()):
            found.append(module)
    return [module for module in found if not isinstance(module, FSDPModule)]


def is_sharded(tensor: Tensor) -> bool:
    """Tell whether a tensor is the shard of a whole.

    Args:
        tensor: a parameter, or what is kept beside one.
    """
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def whole(tensor: Tensor) -> Tensor:
    """Gather a tensor; all ranks must call it, in one order.

    Args:
        tensor: a shard, or a tensor that is whole already.

    Returns:
        All of it, without gradient; the same object if it was whole.
    """
    tensor = tensor.detach()
    return tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def like(tensor: Tensor, weight: Tensor) -> Tensor:
    """Cut a whole tensor as a weight is cut, without a word between ranks.

    Args:
        tensor: the whole, the same on all ranks.
        weight: sharded or not.

    Returns:
        This rank's shard on the weight's device; the tensor itself where the weight is whole.
    """
    if not is_sharded(weight):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    placed = tensor.to(weight.device)
    mesh, placements = weight.device_mesh, weight.placements  # type: ignore[attr-defined]
    return distribute_tensor(placed, mesh, placements, src_data_rank=None)


def trained_whole(module: nn.Module, keep: bool = True) -> dict[str, Tensor]:
    """Gather what trains, tensor by tensor; all ranks must call it.

    Args:
        module: a system or a part.
        keep: keep the result; elsewhere {} comes back.

    Returns:
        Name to whole tensor on the CPU, a copy.
    """
    state: dict[str, Tensor] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            gathered = whole(parameter)
            if keep:
                state[name] = gathered.to("cpu", copy=not is_sharded(parameter))
    return state


def load_trained(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put whole tensors into what trains.

    Args:
        module: a system or a part, sharded or not.
        state: name to whole tensor: exactly what trains.

    Raises:
        ValueError: a name is missing, or is none of what trains.
    """
    learns = {name: p for name, p in module.named_parameters() if p.requires_grad}
    if wrong := sorted(learns.keys() ^ state.keys()):
        raise ValueError(f"what was trained and what trains differ in {wrong[:5]}")
    with torch.no_grad():
        for name, parameter in learns.items():
            parameter.copy_(like(state[name].to(parameter.dtype), parameter))
