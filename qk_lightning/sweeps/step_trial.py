"""Counting and timing a run's steps before there is a run, in a process of its own.

What a step costs does not depend on what the weights are, so no parent is needed: parts that a
stage takes over begin as their own presets have them.
"""

from __future__ import annotations

import shutil
import statistics
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from qk_lightning.config.run_folder import RunFolder

STEPS, WINDOW = 24, 4  # the first window warms up
SPEED = "perf/seconds/step"


def count_flops_of(text: str, folder: str) -> float | None:
    """Count the training FLOPs of a step on the meta device, by the formula of `--dry-run`.

    Args:
        text: YAML of a resolved configuration.
        folder: not used; the job's log is there.

    Returns:
        Operations of all ranks, None where a part cannot run without numbers.
    """
    from qk_lightning.assembly.dry_run import meta_parts
    from qk_lightning.assembly.flops import costs, estimated_flops

    cfg = OmegaConf.create(text)
    assert isinstance(cfg, DictConfig)
    flops = estimated_flops(costs(meta_parts(cfg), cfg), cfg)
    return None if flops is None else float(flops)


def seconds_of(text: str, folder: str) -> float:
    """Time the steps of a short run that keeps nothing.

    Args:
        text: YAML of a resolved configuration.
        folder: where the short run stands meanwhile.

    Returns:
        Seconds of a step, a median over windows of a few steps.
    """
    from qk_lightning.sweeps.stage import run_stage

    cfg = OmegaConf.create(text)
    assert isinstance(cfg, DictConfig)
    cfg.parent, cfg.from_parent, cfg.tracking.name = None, {}, "none"
    trainer, validation = cfg.trainer, cfg.validation
    trainer.max_steps = trainer.checkpoint_every = STEPS
    trainer.log_every, trainer.perf, trainer.keep_best = WINDOW, True, None
    validation.every = validation.num_samples = validation.num_images = 0
    run = RunFolder(Path(folder) / "run")
    try:
        run.create(cfg)
        run_stage(run.path)
        windows = [row["value"] for row in run.metrics() if row["metric"] == SPEED]
        return float(statistics.median(windows[1:]))
    finally:
        shutil.rmtree(run.path, ignore_errors=True)
