"""What learns: an allow-list applied to the parts, and what it trained written as safetensors.

`full` trains every parameter, `{lora: {...}}` adds adapters (peft) to a frozen part, a part that
is not named stays frozen and in eval mode.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig
from safetensors.torch import save_file
from torch import Tensor, nn

from qk_lightning.assembly.lora import add_lora, lora_alpha
from qk_lightning.assembly.weights import Entry
from qk_lightning.config.atomic import aside
from qk_lightning.config.errors import ConfigError, Problem
from qk_lightning.config.identity import fingerprint
from qk_lightning.config.run_folder import RunFolder
from qk_lightning.parts.base import Part


def apply_trainable(parts: Mapping[str, Part], trainable: DictConfig, seed: int) -> None:
    """Freeze and open parameters, and add LoRA.

    Args:
        parts: part by family.
        trainable: `full` or `{lora: {...}}` by family.
        seed: seed of the adapters' first weights.

    Raises:
        ConfigError: a part has nothing to train, or no layer has the LoRA's target names.
    """
    problems: list[Problem] = []
    for family, part in parts.items():
        how = trainable.get(family)
        part.requires_grad_(how == "full")
        part.train(how is not None)
        if how == "full" and not any(True for _ in part.parameters()):
            fix = f"set `trainable.{family}=frozen`, or choose a {family} that learns"
            problems.append(Problem(f"trainable.{family}", how, "a part with parameters", fix))
        elif how is not None and how != "full":
            problems += add_lora(family, part, how.lora, seed)
    if problems:
        raise ConfigError(problems)


def trainable_state(module: nn.Module) -> dict[str, Tensor]:
    """Return what trains, by parameter name.

    Args:
        module: a system or a part.

    Returns:
        Name to the live parameter.
    """
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def count_parameters(parts: Mapping[str, nn.Module]) -> dict[str, dict[str, int]]:
    """Count parameters by part.

    Args:
        parts: part by family.

    Returns:
        `{"total": ..., "trainable": ...}` by family.
    """
    counts = {}
    for family, part in parts.items():
        sizes = [(p.numel(), p.requires_grad) for p in part.parameters()]
        total = sum(size for size, _ in sizes)
        counts[family] = {"total": total, "trainable": sum(s for s, learns in sizes if learns)}
    return counts


def save_trained(
    run: RunFolder, parts: Mapping[str, Part], trainable: DictConfig, start: Sequence[Entry]
) -> list[Entry]:
    """Write what a run trained and return the entries that make it loadable.

    Args:
        run: the run's folder; `weights/<family>/` or `weights/<family>.lora.safetensors` appear.
        parts: the parts, holding the weights to keep (EMA weights where EMA is on).
        trainable: as in the configuration.
        start: the entries that the run started from.

    Returns:
        All entries, old and new, in order.
    """
    entries = list(start)
    for family, part in parts.items():
        how = trainable.get(family)
        if how is None:
            continue
        if how == "full":
            target = run.weights / family
            with aside(target) as folder:
                part.export(folder)
            action: Any = "load"
            entries = [e for e in entries if e.part != family]  # all overwritten
        else:
            target = run.weights / f"{family}.lora.safetensors"
            state = {
                n: t.detach().float().cpu().contiguous() for n, t in trainable_state(part).items()
            }
            # One key: safetensors writes several in any order, and the same LoRA has one digest.
            scale = {"rank": how.lora.rank, "alpha": lora_alpha(how.lora)}
            metadata = {"lora": json.dumps(scale)}
            with aside(target) as file:
                save_file(state, file, metadata=metadata)
            action = "merge_lora"
        file_name = f"{run.name}/{target.relative_to(run.path).as_posix()}"
        entries.append(Entry(family, action, file_name, fingerprint(target)))
    return entries
