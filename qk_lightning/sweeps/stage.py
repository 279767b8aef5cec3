"""One run from its folder: data, parts, training, weights, scores. What every command ends in.

The folder's config.yaml says all; a folder with a checkpoint goes on from it.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig

from qk_lightning.assembly.build import families_of, open_world
from qk_lightning.assembly.trainable import count_parameters, save_trained
from qk_lightning.assembly.weights import describe, starting_entries, write_entries
from qk_lightning.config.atomic import write_json
from qk_lightning.config.errors import ConfigError, Problem
from qk_lightning.config.exported_folder import ExportedFolder
from qk_lightning.config.find_runs import parent_of
from qk_lightning.config.run_folder import RunFolder
from qk_lightning.data.latent_cache import LatentCache
from qk_lightning.data.module import DataModule
from qk_lightning.systems.base import System, build_system
from qk_lightning.tracking import mlflow_store, provenance
from qk_lightning.tracking.validation_pictures import ValidationPictures
from qk_lightning.training.callbacks import (
    ProgressCallback,
    Report,
    RunFolderLogger,
    check_finite,
)
from qk_lightning.training.checkpoints import (
    KEPT,
    AsideCheckpointIO,
    checkpoint_callback,
    keep_newest,
    latest_checkpoint,
)
from qk_lightning.training.ema import EMACallback
from qk_lightning.training.quiet import quiet_lightning
from qk_lightning.training.stopping import StopBetweenSteps

VLM_SHARE = 4  # questions of each world at the end of a run, in units of validation.num_samples
log = logging.getLogger("qk_lightning")


def run_stage(folder: str | Path, report: Report | None = None) -> None:
    """Train one run folder to its end, from its last checkpoint if it has one.

    Args:
        folder: a run folder with config.yaml; the caller holds its lock.
        report: called with progress while it trains.

    Raises:
        ConfigError: the parent or the configuration cannot be used.
    """
    run = RunFolder(Path(folder).resolve())
    cfg = run.config
    quiet_lightning()
    started = time.perf_counter()
    seconds_before = run.status.get("seconds", 0.0) if run.checkpoints.is_dir() else 0.0
    run.write_status(state="running", started=_now(), max_steps=cfg.trainer.max_steps, error="")
    try:
        _train(run, cfg, report, seconds_before)
    except BaseException as error:
        seconds = seconds_before + time.perf_counter() - started
        state = "failed" if isinstance(error, Exception) else "stopped"
        run.write_status(state=state, error=f"{type(error).__name__}: {error}", seconds=seconds)
        raise
    seconds = seconds_before + time.perf_counter() - started
    run.write_status(state="done", step=cfg.trainer.max_steps, seconds=seconds, finished=_now())


def _train(run: RunFolder, cfg: DictConfig, report: Report | None, seconds_before: float) -> None:
    world = open_world(cfg.data.world)
    world.prepare()
    entries = starting_entries(cfg, families_of(cfg), _parent_of(run), run.path.parent)
    system = build_system(cfg, entries, run.path.parent)
    system.configure_model()
    checkpoint = latest_checkpoint(run)
    step = run.last_checkpoint_step if checkpoint else 0
    print("\n".join(describe(entries, cfg.trainable, step)))
    sources = provenance.source_digest(cfg)  # as they are before anyone edits them
    write_json(run.path / "parameters.json", count_parameters(system.parts))
    write_json(run.provenance_json, provenance.collect())
    data = system.data_module(world, None)
    progress = ProgressCallback(run, report, seconds_before)
    ema = EMACallback(cfg.ema.decay) if cfg.ema.decay else None
    loggers = [RunFolderLogger(run), *_tracker(run, cfg)]
    watchers = [progress, *([ema] if ema else []), ValidationPictures(run), StopBetweenSteps(run)]
    trainer = _trainer(run, cfg, data, watchers, loggers)
    device = trainer.strategy.root_device
    if system.wants_latents:
        data.latents = LatentCache.open(world, system.parts["autoencoder"].to(device))
    _fit(run, trainer, system, data, checkpoint)
    system.to(device)  # Lightning leaves it on the CPU
    if ema is not None:
        ema.swap(system)
    system.on_trained(data)
    write_entries(run, save_trained(run, system.parts, cfg.trainable, entries))
    _score(run, system, trainer, data, loggers)
    write_json(run.sources_json, {**provenance.source_digest(cfg), **sources})
    if progress.seconds_per_step:  # a run resumed at its last step has none
        run.write_status(seconds_per_step=progress.seconds_per_step)
    mlflow_store.log_run_artifacts(run)
    keep_newest(run)


def _fit(
    run: RunFolder, trainer: Trainer, system: System, data: DataModule, checkpoint: Path | None
) -> None:
    """Train, from a checkpoint if there is one.

    Raises:
        KeyboardInterrupt: the user stopped it.
    """
    if checkpoint is not None:
        step = run.last_checkpoint_step
        data.start_step = step
        log.info("%s goes on from step %d", run.name, step)
        keep_newest(run, KEPT)  # Ctrl-C adds one each time
    run.keep_metrics_until(data.start_step)
    with _ctrl_c():
        trainer.fit(system, datamodule=data, ckpt_path=checkpoint, weights_only=True)


@contextmanager
def _ctrl_c() -> Iterator[None]:
    """Let Ctrl-C come through as itself: Lightning ends the process, and ignores further ones."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as end:
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from end


def _parent_of(run: RunFolder) -> RunFolder | None:
    """Return what the run continues; an exported folder must be what the run was planned with."""
    parent, recorded = parent_of(run), run.read_json("parent.json").get("identity")
    if isinstance(parent, ExportedFolder) and parent.identity != recorded:
        expected = f"the weights that the run was planned with ({recorded}, now {parent.identity})"
        raise ConfigError(Problem("parent", str(parent.path), expected, "plan it again: qk fit"))
    return parent


def _tracker(run: RunFolder, cfg: DictConfig) -> list[Logger]:
    logger = mlflow_store.stage_logger(run, cfg)
    return [] if logger is None else [logger]


def _trainer(
    run: RunFolder, cfg: DictConfig, data: DataModule, callbacks: list[Any], loggers: list[Logger]
) -> Trainer:
    options = cfg.trainer
    accumulated = data.micro_batches_per_step(options.devices)
    every = cfg.validation.every
    return Trainer(
        default_root_dir=run.path,
        accelerator=options.accelerator,
        devices=options.devices,
        precision=options.precision,
        max_epochs=-1,
        max_steps=options.max_steps,
        accumulate_grad_batches=accumulated,
        gradient_clip_val=cfg.optimizer.gradient_clip,
        callbacks=[*callbacks, checkpoint_callback(run, options.checkpoint_every)],
        plugins=[AsideCheckpointIO()],
        logger=loggers,
        log_every_n_steps=options.log_every,
        val_check_interval=every * accumulated if every else None,
        check_val_every_n_epoch=None if every else 1,
        limit_val_batches=1.0 if every else 0,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _score(
    run: RunFolder, system: System, trainer: Trainer, data: DataModule, loggers: list[Logger]
) -> None:
    """Measure the finished weights: validation loss, then what the system draws."""
    from qk_lightning.evaluation.stage_scores import score_stage
    from qk_lightning.evaluation.vlm_answers import score_vlm
    from qk_lightning.systems.query_kontext import QueryKontext
    from qk_lightning.systems.understanding import Understanding

    options = system.config.trainer
    scores: dict[str, float] = {}
    if system.config.validation.num_samples:
        validator = Trainer(
            accelerator=options.accelerator,
            devices=1,
            precision=options.precision,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
        )
        with _ctrl_c():
            (metrics,) = validator.validate(system, data.val_dataloader(), verbose=False)
        scores = {name: float(value) for name, value in metrics.items()}
        check_finite(scores["val/loss"], "the validation loss")
    if isinstance(system, QueryKontext) and system.config.validation.num_images:
        system.to(trainer.strategy.root_device)
        system.merge_adapters()
        scores |= score_stage(system, data, run)
    if isinstance(system, Understanding):
        scores |= score_vlm(system, data.world, VLM_SHARE * system.config.validation.num_samples)
    for logger in loggers:
        logger.log_metrics(scores, options.max_steps - 1)  # as Lightning counts, from 0
        logger.finalize("success")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
