"""What a configuration would cost, measured on the meta device: nothing is read or allocated.

Parameters by part, operations of a sample (`flops.py`), the arithmetic of batches, and memory a
rank without activations.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from omegaconf import DictConfig

from qk_lightning.assembly.build import build_parts, families_of
from qk_lightning.assembly.flops import Cost, costs
from qk_lightning.assembly.memory import expected_bytes, weights_of
from qk_lightning.assembly.trainable import apply_trainable, count_parameters
from qk_lightning.parts.base import Part

FLOPS_HEADING = (
    "forward pass of one sample (matrix products, convolutions and attention; a multiplication\n"
    "and an addition are two; what learns takes about twice as much again backwards):"
)


@dataclass(frozen=True)
class DryRun:
    """The cost of one run.

    Args:
        parameters: total and trainable by part.
        memory: bytes a rank by purpose.
        arithmetic: lines on batches.
        flops: operations of one sample's forward passes.
        ranks: the rank that `memory` is of, in words.
    """

    parameters: dict[str, dict[str, int]]
    memory: dict[str, int]
    arithmetic: list[str]
    flops: list[Cost]
    ranks: str = "a rank"

    def describe(self) -> str:
        """Write it as a table for people."""
        lines = [f"{'part':<14}{'parameters':>16}{'trainable':>16}"]
        for family, counts in self.parameters.items():
            lines.append(f"{family:<14}{counts['total']:>16,}{counts['trainable']:>16,}")
        total = sum(counts["total"] for counts in self.parameters.values())
        learns = sum(counts["trainable"] for counts in self.parameters.values())
        lines += [f"{'all':<14}{total:>16,}{learns:>16,}", "", *self.arithmetic, ""]
        if self.flops:
            lines.append(FLOPS_HEADING)
            lines += [*[cost.describe() for cost in self.flops], ""]
        lines.append(f"memory {self.ranks}, without activations:")
        lines += [
            f"  {name:<12}{bytes_ / 2**20:>12,.1f} MiB" for name, bytes_ in self.memory.items()
        ]
        lines.append(f"  {'all':<12}{sum(self.memory.values()) / 2**20:>12,.1f} MiB")
        return "\n".join(lines)


def meta_parts(cfg: DictConfig) -> dict[str, Part]:
    """Build a run's parts on the meta device, frozen and with LoRA as they would train.

    Args:
        cfg: the resolved configuration.

    Returns:
        Part by family; no parameter has storage.

    Raises:
        ConfigError: the parts do not fit together.
    """
    with torch.device("meta"):
        parts = build_parts(cfg, families_of(cfg))
        apply_trainable(parts, cfg.trainable, cfg.seed)
    return parts


def dry_run(cfg: DictConfig) -> DryRun:
    """Count what a run would cost.

    Args:
        cfg: the resolved configuration.

    Returns:
        Its cost.

    Raises:
        ConfigError: the parts do not fit together.
    """
    parts = meta_parts(cfg)
    trainer = cfg.trainer
    weights = weights_of(parts, trainer)
    memory = expected_bytes(weights, trainer.devices, averaged=bool(cfg.ema.decay))
    return DryRun(
        count_parameters(parts), memory, _arithmetic(cfg), costs(parts, cfg), _ranks(trainer)
    )


def _ranks(trainer: DictConfig) -> str:
    if trainer.devices == 1:
        return "a rank"
    shares = "of the largest shards" if trainer.strategy == "fsdp" else "with the whole model"
    return f"of each of {trainer.devices} ranks, {shares}"


def _arithmetic(cfg: DictConfig) -> list[str]:
    trainer, groups = cfg.trainer, cfg.data.groups_per_step
    group = trainer.global_batch_size // groups
    micro = trainer.micro_batch_size or max(1, group // trainer.devices)
    passes = max(1, group // (micro * trainer.devices)) * groups
    samples = trainer.global_batch_size * trainer.max_steps
    return [
        f"global batch {trainer.global_batch_size} = {groups} groups of {group} "
        f"(one task and layout each) on {trainer.devices} device(s)",
        f"micro-batch {micro}, {passes} forward passes a step and rank",
        f"{trainer.max_steps} steps, {samples:,} samples",
    ]
