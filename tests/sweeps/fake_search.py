"""Stages for searches that train nothing: a validation loss at each of ten steps.

The loss is `width` away from 3 and falls a little with the steps; a stage takes a step each
`STEP_SECONDS`.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import fake_stages
from omegaconf import OmegaConf

from qk_lightning.config.paths import runs_root
from qk_lightning.config.run_folder import RunFolder

TARGET = "fake_search:run_stage"
STEPS = 10


def plan_chain(preset, overrides=()):
    """Plan the last two stages of the fake chain, with ten steps."""
    chain = fake_stages.plan_chain(preset, overrides)
    for plan in chain:
        OmegaConf.update(plan.cfg, "trainer.max_steps", STEPS)
        OmegaConf.update(plan.cfg, "validation", {"every": 1, "num_samples": 4})
        OmegaConf.update(plan.cfg, "data", {})
    return chain


def run_stage(folder, report=None) -> None:
    run = RunFolder(Path(folder))
    cfg = run.config
    with (runs_root() / "calls.txt").open("a") as handle:
        handle.write(f"{cfg.stage} {cfg.get('width', '-')} {cfg.seed}\n")
    wait = float(os.environ.get("STEP_SECONDS", "0")) if cfg.stage == "refine" else 0.0
    for step in range(1, STEPS + 1):
        if cfg.stage == "refine":
            loss = abs(cfg.width - 3.0) + 0.1 / step + 0.001 * cfg.seed
            run.append_metrics(step, {"val/loss": loss})
        if report:
            report({"step": step, "max_steps": STEPS, "loss": 0.5})
        run.write_status(state="running", step=step, max_steps=STEPS)
        time.sleep(wait)
    run.write_status(state="done", step=STEPS, seconds=0.1)
