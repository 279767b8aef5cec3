"""Sharding parts over ranks (FSDP2), and the way between shards and whole tensors.

A part is a root of its own and its blocks are units, with their LoRA inside; the system owns no
parameter and is not sharded. Not here: who the ranks are and what is saved (`training/`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from qk_lightning.parts.base import Part

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

# Parameters of the largest frozen part that each rank keeps whole: gathering it costs more.
REPLICATED = 20_000_000


def shard_parts(parts: Mapping[str, Part], mesh: DeviceMesh) -> None:
    """Shard what trains, and frozen parts that are large; small frozen ones stay whole.

    Args:
        parts: part by family, loaded, with LoRA added and the rest frozen; changed in place.
        mesh: one dimension of ranks.
    """
    for part in parts.values():
        sizes = [(p.numel(), p.requires_grad) for p in part.parameters()]
        if any(learns for _, learns in sizes) or sum(size for size, _ in sizes) > REPLICATED:
            shard_part(part, mesh)


def shard_part(part: Part, mesh: DeviceMesh) -> None:
    """Shard one part: its units from the inside out, then what is left of it.

    Shards are put back after each forward pass, the root's too: between passes a parameter is
    always its shard, whoever looks (the optimiser, the average, a checkpoint).

    Args:
        part: changed in place; its class becomes a subclass.
        mesh: one dimension of ranks.
    """
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    units = {id(unit) for unit in part.shard_units()}
    order = [module for module in part.modules() if id(module) in units]
    for module in (*reversed(order), part):
        fully_shard(module, mesh=mesh, reshard_after_forward=True)
    for name in part.forward_methods:
        if hasattr(part, name):
            register_fsdp_forward_method(part, name)


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
