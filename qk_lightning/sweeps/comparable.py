"""What losses are measured in: rows compare by a loss only where it is the same for both.

A diffusion loss is a mean square in the latents of an autoencoder, of what an objective predicts,
over the noise levels that it draws: with another autoencoder or objective it is another quantity,
and less of it says nothing. Scores of pictures (`eval/...`) compare across all of them. A system
without an objective, as one that trains an autoencoder, has its loss in the data's own units.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from qk_lightning.config.chain import StagePlan
from qk_lightning.config.errors import Problem
from qk_lightning.sweeps.file import Row, SweepFile

# Options of objectives that move neither the target nor the noise levels of a loss.
ONLY_SAMPLING = ("sampler",)
ONLY_WEIGHTS = ("weighting", "snr_gamma")  # of the training loss; validation is not weighted
HANDED_OVER = ("load", "merge")


def is_loss(metric: str) -> bool:
    """Tell whether a metric is a loss, with what it was split by.

    Args:
        metric: such as `val/loss` or `train/loss/editing`.
    """
    return metric.split("/")[:2] in (["val", "loss"], ["train", "loss"])


def loss_units(plan: StagePlan, metric: str = "val/loss") -> dict[str, Any]:
    """Return what a loss of a stage is measured in.

    Args:
        plan: the stage.
        metric: the loss; the training loss has weights, too.

    Returns:
        Plain values by what decides: `system`, `autoencoder`, `objective`. Losses of equal ones
        compare.
    """
    cfg = plan.cfg
    units: dict[str, Any] = {"system": str(cfg.system.name)}
    objective = _plain(cfg, "objective")
    if objective is None:
        return units
    left_out = ONLY_SAMPLING + (ONLY_WEIGHTS if metric.startswith("val/") else ())
    units["objective"] = {key: objective[key] for key in objective if key not in left_out}
    units["autoencoder"] = {**(_plain(cfg, "autoencoder") or {}), "trained by": _trained_by(plan)}
    return units


def _plain(cfg: DictConfig, family: str) -> dict[str, Any] | None:
    node = cfg.get(family)
    if not isinstance(node, DictConfig):
        return None
    values: Any = OmegaConf.to_container(node)
    return {str(key): value for key, value in values.items()}


def _trained_by(plan: StagePlan) -> str:
    """Name the earlier stage of the chain that made the autoencoder; "" where none did."""
    at = plan
    while at.parent is not None and _inherits(at):
        at = at.parent
        if "autoencoder" in (at.cfg.get("trainable") or {}):
            return at.identity
    return ""


def _inherits(plan: StagePlan) -> bool:
    return (plan.cfg.get("from_parent") or {}).get("autoencoder") in HANDED_OVER


def what_differs(plan: StagePlan, other: StagePlan, metric: str) -> str:
    """Say why two stages do not compare by a loss.

    Args:
        plan: a stage.
        other: the same stage of another row, with the same seed.
        metric: the loss.

    Returns:
        For example `another autoencoder`, "" where they compare.
    """
    ours, theirs = loss_units(plan, metric), loss_units(other, metric)
    names = [key for key in dict.fromkeys((*ours, *theirs)) if ours.get(key) != theirs.get(key)]
    return " and ".join(f"another {name}" for name in names)


def units_key(plan: StagePlan, metrics: Sequence[str]) -> str:
    """Return a text that is equal where all losses among some metrics compare.

    Args:
        plan: a stage.
        metrics: metrics of the sweep.
    """
    units = [loss_units(plan, metric) for metric in metrics if is_loss(metric)]
    text = json.dumps(units, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:10] if units else ""


def loss_problems(file: SweepFile, chains: Mapping[str, Sequence[StagePlan]]) -> list[Problem]:
    """Refuse to compare rows with their baseline by a loss that is another quantity there.

    Args:
        file: the sweep file.
        chains: the stages of one member by its row's name, all with the same seed.

    Returns:
        A problem for each such metric.
    """
    problems = []
    for metric in filter(is_loss, file.metrics):
        found = (_compared(file, row, chains, metric) for row in file.rows())
        if first := next(filter(None, found), None):
            name, base, reason = first
            expected = (
                f"a metric that is the same quantity in the rows it compares ({name!r} has {reason}"
                f" than its baseline {base!r}, so their losses cannot be compared)"
            )
            fix = (
                f"take {metric} out of `metrics:` and compare by eval/... metrics, which are of "
                "pictures; results.csv has the losses all the same. Or leave that option out of "
                "`baseline:`, so that rows are compared within each of its values"
            )
            problems.append(Problem(f"metrics.{metric}", file.metrics[metric], expected, fix))
    return problems


def _compared(
    file: SweepFile, row: Row, chains: Mapping[str, Sequence[StagePlan]], metric: str
) -> tuple[str, str, str] | None:
    base = file.baseline_of(row)
    if base is None or base == row:
        return None
    theirs = {plan.stage: plan for plan in chains[base.name]}
    for plan in chains[row.name]:
        other = theirs.get(plan.stage)
        reason = what_differs(plan, other, metric) if other else ""
        if reason:
            return row.name, base.name, reason
    return None
