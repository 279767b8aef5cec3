"""What a training step costs, for budgets: in steps, samples, training FLOPs or seconds.

Samples stand in the configuration. FLOPs are counted on the meta device, seconds are measured in a
short run, both in a process of their own and once: `<root>/runs/sweeps/.step_costs/` keeps them by
what shapes them, so that a sweep has the same steps, and identities, whenever it is planned.
"""

from __future__ import annotations

import hashlib
import json
import math
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from qk_lightning.config.atomic import write_json
from qk_lightning.config.chain import StagePlan
from qk_lightning.config.errors import ConfigError, Problem
from qk_lightning.config.identity import identity_content
from qk_lightning.config.paths import sweeps_root

FOLDER = ".step_costs"  # no sweep has a name with a dot in front
COUNT = "qk_lightning.sweeps.step_trial:count_flops_of"
MEASURE = "qk_lightning.sweeps.step_trial:seconds_of"
# Sections and options that change no step's cost.
COSTS_NOTHING = ("optimizer", "validation", "sampling", "parent_identity", "from_parent")
TRAINER = ("max_steps", "log_every", "checkpoint_every", "keep_best")


def step_costs(plans: Sequence[StagePlan], equal: str, threads: int = 1) -> dict[str, float]:
    """Return what a step of some runs costs.

    Args:
        plans: the runs.
        equal: the unit, as in a budget.
        threads: threads of a run, which seconds depend on.

    Returns:
        Cost by identity.

    Raises:
        ConfigError: a step cannot be counted or measured.
    """
    if equal == "steps":
        return {plan.identity: 1.0 for plan in plans}
    if equal == "samples":
        return {plan.identity: float(plan.cfg.trainer.global_batch_size) for plan in plans}
    keys = {plan.identity: cost_key(plan, equal, threads) for plan in plans}
    of_key = {keys[plan.identity]: plan for plan in plans}
    missing = {key: plan for key, plan in of_key.items() if _read(key, equal) is None}
    if missing:
        _find_out(missing, equal, threads)
    costs = {}
    problems = []
    for identity, key in keys.items():
        cost = _read(key, equal)
        if cost is None:
            stage = of_key[key].stage
            expected = f"a step of {stage} that can be counted or measured (see {_file(key)})"
            problems.append(Problem("budget.equal", equal, expected, "write `equal: samples`"))
        else:
            costs[identity] = cost
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    return costs


def cost_key(plan: StagePlan, equal: str, threads: int) -> str:
    """Return what is equal for runs whose steps cost the same.

    Args:
        plan: the run.
        equal: `training_flops` or `seconds`.
        threads: of a run; they shape seconds alone.
    """
    cfg = plan.cfg.copy()
    cfg.seed, cfg.trainer.max_steps = 0, 1
    content = identity_content(cfg)
    shapes: dict[str, Any] = {k: v for k, v in content.items() if k not in COSTS_NOTHING}
    if equal == "seconds":
        trainer: Any = OmegaConf.to_container(cfg.trainer)
        shapes["trainer"] = {k: v for k, v in trainer.items() if k not in TRAINER}
        shapes["threads"] = threads
    text = json.dumps([equal, shapes], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _file(key: str) -> Path:
    return sweeps_root() / FOLDER / f"{key}.json"


def _read(key: str, equal: str) -> float | None:
    file = _file(key)
    found = json.loads(file.read_text()).get(equal) if file.is_file() else None
    if isinstance(found, int | float) and math.isfinite(found) and found > 0:
        return float(found)
    return None


def _find_out(missing: dict[str, StagePlan], equal: str, threads: int) -> None:
    """Count or measure, one after the other, each in a process of this sweep's threads."""
    from qk_lightning.sweeps.pool import Pool
    from qk_lightning.sweeps.worker import Job

    what = "counting the training FLOPs" if equal == "training_flops" else "timing the steps"
    print(f"{what} of {len(missing)} configurations, once", file=sys.stderr, flush=True)
    target = COUNT if equal == "training_flops" else MEASURE
    folder = sweeps_root() / FOLDER
    with Pool(1, threads) as pool:
        for key, plan in missing.items():
            text = OmegaConf.to_yaml(plan.cfg)
            job = Job(key, target, (text, str(folder / key)), folder / key)
            pool.submit(job)
            while pool.running:
                for event in pool.events():
                    note: dict[str, Any] = {"stage": plan.stage, "host": socket.gethostname()}
                    if event.kind == "done":
                        write_json(_file(key), {**note, equal: event.data})
                    elif event.kind != "progress":
                        write_json(_file(key), {**note, "error": str(event.data)})
