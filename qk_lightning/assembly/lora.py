"""LoRA: adding adapters to a frozen part, and merging what they learned into its weights.

r = rank; a layer's weight is [out, in], a convolution's [out, in, height, width].
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from omegaconf import DictConfig
from safetensors import safe_open
from torch import Tensor, nn

from qk_lightning.assembly.build import seeded
from qk_lightning.config.errors import Problem
from qk_lightning.parts.base import Part


def add_lora(family: str, part: Part, lora: DictConfig, seed: int) -> list[Problem]:
    """Add adapters to a part (peft) and freeze the rest of it.

    Args:
        family: the part's family, for errors and the seed.
        part: the part; changed in place.
        lora: rank, alpha and targets.
        seed: the run's seed.

    Returns:
        What is wrong with the options.
    """
    from peft import LoraConfig, inject_adapter_in_model

    targets = list(lora.targets) or list(part.lora_targets)
    key, has = f"trainable.{family}.lora.targets", f"it has: {_linear_layers(part)}"
    if not targets:
        fix = f"the part offers none of its own; {has}"
        return [Problem(key, targets, "names of linear layers", fix)]
    # peft is content with one that matches; the part's own list is for all of its architectures.
    names = [f".{name}" for name, _ in part.named_modules()]
    lost = [t for t in lora.targets if not any(name.endswith(f".{t}") for name in names)]
    if lost:
        return [Problem(key, lost, "each the name of a layer of the part", has)]
    config = LoraConfig(r=lora.rank, lora_alpha=lora_alpha(lora), target_modules=targets)
    try:
        with seeded(seed, family, "lora"):
            inject_adapter_in_model(config, part)
    except ValueError as error:
        return [Problem(key, targets, f"layers of the part ({str(error)[:120]})", has)]
    for name, parameter in part.named_parameters():
        is_adapter = ".lora_" in name
        if is_adapter:  # small updates vanish in the half precision of a frozen base
            parameter.data = parameter.data.float()
        parameter.requires_grad_(is_adapter)
    return []


def _linear_layers(part: Part) -> list[str]:
    """List the last names of a part's linear layers, each once."""
    linear = [name for name, module in part.named_modules() if isinstance(module, nn.Linear)]
    return sorted({name.split(".")[-1] for name in linear})


def lora_alpha(lora: DictConfig) -> float:
    """Return the LoRA's alpha; its rank where none is given."""
    return float(lora.rank if lora.alpha is None else lora.alpha)


def merge_lora(part: nn.Module, file: Path) -> int:
    """Add a LoRA update to a part: W <- W + alpha / rank * B A, in float32, matrix by matrix.

    Args:
        part: the part, without adapters.
        file: safetensors of `<layer>.lora_A.default.weight` [r, in] and `..lora_B..` [out, r],
            with `{"rank": r, "alpha": a}` as JSON under `lora` in its metadata.

    Returns:
        How many matrices were updated.

    Raises:
        ValueError: the file updates nothing, or a layer that the part does not have.
    """
    rank, alpha, update = read_update(file)
    for layer, (down, up) in update.items():
        add_update(part, layer, down, up, alpha / rank)
    if not update:
        raise ValueError(f"{file} holds no LoRA update")
    return len(update)


def read_update(file: Path) -> tuple[int, float, dict[str, tuple[Tensor, Tensor]]]:
    """Read what `merge_lora` reads.

    Args:
        file: safetensors, as `merge_lora` says.

    Returns:
        Rank, alpha, and (down [r, in], up [out, r]) in float32 by layer.
    """
    update = {}
    with safe_open(file, framework="pt") as handle:
        metadata = json.loads((handle.metadata() or {})["lora"])
        for name in handle.keys():  # noqa: SIM118 - not a dict
            if ".lora_A." in name:
                up = handle.get_tensor(name.replace(".lora_A.", ".lora_B.")).float()
                update[name.split(".lora_A.")[0]] = (handle.get_tensor(name).float(), up)
    return metadata["rank"], metadata["alpha"], update


@torch.no_grad()
def add_update(part: nn.Module, layer: str, down: Tensor, up: Tensor, scale: float) -> None:
    """Add one matrix's update to a part, in float32: W <- W + scale * up down.

    Args:
        part: the part, without adapters.
        layer: name of the layer, linear or a convolution.
        down: [r, in], or [r, in, height, width], float32.
        up: [out, r], or [out, r, 1, 1], float32.
        scale: alpha / r.

    Raises:
        ValueError: the part has no such layer, or one of another width.
    """
    try:
        weight = part.get_parameter(f"{layer}.weight")
    except AttributeError as error:
        raise ValueError(f"the LoRA updates {layer}, which the part does not have") from error
    wanted = (up.shape[0], *down.shape[1:])  # of a convolution: [out, in, height, width]
    if weight.shape != wanted:
        raise ValueError(
            f"the LoRA of {layer} is for a weight of {wanted}, the part's is {tuple(weight.shape)}"
        )
    update = (up.flatten(1) @ down.flatten(1)).reshape(wanted)
    weight.copy_((weight.float() + scale * update).to(weight.dtype))


def merge_in_place(parts: Mapping[str, Part]) -> None:
    """Merge the adapters that are in the parts, so that they draw without LoRA's overhead.

    Args:
        parts: part by family; changed in place.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    for part in parts.values():
        for module in part.modules():
            if isinstance(module, BaseTunerLayer):
                with torch.no_grad():
                    module.merge()
