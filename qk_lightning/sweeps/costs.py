"""What runs cost: seconds, images, training FLOPs, as the run folders have them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from qk_lightning.sweeps.plan import SweepPlan

UNITS = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True)
class Cost:
    """What a run cost, or a mean or a sum of runs.

    Args:
        seconds: from start to end, scoring included, beside whatever else the machine did.
        images: samples that it trained on, steps x samples a step.
        flops: floating-point operations of its training steps, as counted in the run.

    Each is None where it was not recorded.
    """

    seconds: float | None = None
    images: float | None = None
    flops: float | None = None


def cost_of(status: dict[str, Any], max_steps: int, global_batch_size: int) -> Cost:
    """Read the cost of a finished run.

    Args:
        status: what its status.json holds.
        max_steps: its optimiser steps.
        global_batch_size: samples a step.

    Returns:
        The cost; FLOPs only where the run has counted `flops_per_step`.
    """
    per_step = _number(status.get("flops_per_step"))
    flops = None if per_step is None else per_step * max_steps
    return Cost(_number(status.get("seconds")), float(max_steps * global_batch_size), flops)


def _number(value: Any) -> float | None:
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if known and math.isfinite(value) and value > 0 else None


def add(costs: Iterable[Cost]) -> Cost:
    """Sum costs; what one of them lacks is unknown.

    Args:
        costs: of several runs.
    """
    listed = list(costs)
    return Cost(*(_sum([getattr(cost, name) for cost in listed]) for name in _NAMES))


def mean(costs: Sequence[Cost]) -> Cost:
    """Average costs; what one of them lacks is unknown.

    Args:
        costs: of several runs.
    """
    sums = add(costs)
    count = max(len(costs), 1)
    return Cost(*(None if (value := getattr(sums, name)) is None else value / count
                  for name in _NAMES))  # fmt: skip


_NAMES = ("seconds", "images", "flops")


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) if known and len(known) == len(values) else None


def total(plan: SweepPlan) -> Cost:
    """Sum what the finished runs of a sweep cost, each once however many members share it.

    Args:
        plan: the sweep.
    """
    return add(
        cost_of(
            run.folder.status,
            int(run.plan.cfg.trainer.max_steps),
            int(run.plan.cfg.trainer.global_batch_size),
        )
        for run in plan.graph.values()
        if run.done
    )


def format_large(value: float | None, unit: str = "", digits: int = 3) -> str:
    """Write a large number with a letter for its thousands.

    Args:
        value: the number; None = not recorded.
        unit: what is counted.
        digits: how many of them are written.

    Returns:
        For example `3.2 k`, `1.84 TFLOP`, `-`.
    """
    if value is None:
        return "-"
    for size, letter in UNITS:
        if value >= size:
            return f"{value / size:.{digits}g} {letter}{unit}"
    return f"{value:.{digits}g} {unit}".strip()
