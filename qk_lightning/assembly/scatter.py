"""Large parts under FSDP: built without storage, sharded, then filled from the first rank.

The first rank's host reads a part's files (mapped, tensor by tensor) or draws its random numbers,
by the same entries and in the same order as one process does, so the weights are the same bit for
bit; each tensor then goes out in shards. No device ever holds the whole part, and no other rank's
host more than its shards and one tensor. Random weights are drawn as a whole part on that host
and not by shard: the numbers are a function of (seed, part) alone, for any number of ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import Tensor, distributed, nn

from qk_lightning.assembly.build import wired_sizes
from qk_lightning.assembly.replay import bare_part, replay_part, tensors_of
from qk_lightning.assembly.shard import is_large, is_sharded
from qk_lightning.assembly.trainable import apply_trainable
from qk_lightning.assembly.weights import Entry, check_bases, check_files
from qk_lightning.parts.base import Part

Shape = tuple[tuple[int, ...], torch.dtype]


def replay_small(
    cfg: DictConfig, entries: list[Entry], families: Iterable[str], root: Path
) -> dict[str, Part]:
    """Build a run's parts as `replay` does, large ones without weights on the meta device.

    An autoencoder always gets its weights: one rank encodes the world with it alone.

    Args:
        cfg: the configuration.
        entries: where weights come from.
        families: the parts wanted, in build order.
        root: the folder that holds the run folders.

    Returns:
        Part by family; `scatter_weights` fills those on the meta device.

    Raises:
        ConfigError: a file is missing (its run is named), was changed, or does not fit.
    """
    check_files(entries, root)
    check_bases(cfg, entries, families)
    parts: dict[str, Part] = {}
    for family in families:
        wired = wired_sizes(parts)
        with torch.device("meta"):
            part = bare_part(cfg, entries, family, wired)
        if family == "autoencoder" or not is_large(part):
            part = replay_part(cfg, entries, family, wired, root)
        parts[family] = part
    return parts


def whole_part(
    cfg: DictConfig, entries: list[Entry], family: str, parts: dict[str, Part], root: Path
) -> Part:
    """Build a part on this rank's host as it begins to train: with weights and LoRA.

    Args:
        cfg: the configuration.
        entries: where weights come from.
        family: the part.
        parts: all parts, sharded or not; they say the sizes that it is wired with.
        root: the folder that holds the run folders.
    """
    before = dict(list(parts.items())[: list(parts).index(family)])
    kept = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)  # under bf16-true Lightning has changed it by now
    try:
        with torch.device("cpu"):
            part = replay_part(cfg, entries, family, wired_sizes(before), root, lean=True)
            apply_trainable({family: part}, cfg.trainable, cfg.seed)
    finally:
        torch.set_default_dtype(kept)
    return part


def scatter_weights(part: Part, make_whole: Callable[[], Part], on_host: bool = False) -> None:
    """Fill a sharded part on the meta device; all ranks must call it.

    Args:
        part: sharded, without storage.
        make_whole: builds the same part with its weights; called in the first process alone.
        on_host: leave the shards in the host's memory (CPU offload); buffers go to the device.

    Raises:
        Exception: what `make_whole` raised, on every rank.
    """
    shapes = {name: (tuple(t.shape), t.dtype) for name, t in tensors_of(part).items()}
    source = _from_first(make_whole, shapes)
    device = _device_of(part)
    state: dict[str, nn.Parameter] = {}
    for name, target in part.named_parameters():
        shard = _scatter(source.pop(name, None), target, device)
        state[name] = nn.Parameter(shard.cpu() if on_host else shard, target.requires_grad)
    # Tied weights come once; what ties them stands in the part and in FSDP's own bookkeeping.
    part.load_state_dict(state, strict=False, assign=True)
    for name, buffer in list(part.named_buffers()):  # tables that no file holds among them
        owner, _, leaf = name.rpartition(".")
        filled = source.pop(name, torch.empty(0)).to(device)
        if distributed.get_rank():
            filled = torch.empty(buffer.shape, dtype=buffer.dtype, device=device)
        distributed.broadcast(filled, src=0)
        part.get_submodule(owner)._buffers[leaf] = filled


def _from_first(make_whole: Callable[[], Part], shapes: dict[str, Shape]) -> dict[str, Tensor]:
    """Build the part in the first process and return its tensors; an error is raised on all."""
    source: dict[str, Tensor] = {}
    failed: BaseException | None = None
    if distributed.get_rank() == 0:
        try:
            source = {name: t.detach() for name, t in tensors_of(make_whole()).items()}
            _check_same(source, shapes)
        except Exception as error:  # the others wait for it: none may be left alone
            failed = error
    told = [None if failed is None else f"{type(failed).__name__}: {failed}"]
    distributed.broadcast_object_list(told, src=0)
    if failed is not None:
        raise failed
    if told[0] is not None:
        raise RuntimeError(f"the first rank could not build a part: {told[0]}")
    return source


def _check_same(source: dict[str, Tensor], shapes: dict[str, Shape]) -> None:
    found = {name: (tuple(t.shape), t.dtype) for name, t in source.items()}
    if wrong := sorted(n for n in found.keys() | shapes.keys() if found.get(n) != shapes.get(n)):
        raise ValueError(
            f"a part built without storage is another one than with it: {wrong[:5]}; its "
            "constructor must do the same under torch.device('meta')"
        )


def _scatter(tensor: Tensor | None, target: Tensor, device: torch.device) -> Tensor:
    """Send a tensor's shards out; it is whole on one device, alone and for this moment."""
    from torch.distributed.tensor import distribute_tensor

    assert is_sharded(target)
    if tensor is None:
        tensor = torch.empty(target.shape, dtype=target.dtype, device=device)
    mesh, placements = target.device_mesh, target.placements  # type: ignore[attr-defined]
    return distribute_tensor(tensor.to(device), mesh, placements, src_data_rank=0)


def _device_of(part: Part) -> torch.device:
    mesh = next(part.parameters()).device_mesh  # type: ignore[union-attr]
    if mesh.device_type == "cpu":
        return torch.device("cpu")
    return torch.device(mesh.device_type, torch.cuda.current_device())
