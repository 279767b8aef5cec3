"""One run from its folder: data, parts, training, weights, scores. What every command ends in.

The folder's config.yaml says all; a folder with a checkpoint goes on from it.
"""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime
from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig

from qk_lightning.assembly.build import families_of, open_world
from qk_lightning.assembly.shard import load_trained, trained_whole
from qk_lightning.assembly.trainable import count_parameters, save_trained
from qk_lightning.assembly.weights import describe, starting_entries, write_entries
from qk_lightning.config.atomic import write_json
from qk_lightning.config.errors import ConfigError, Problem
from qk_lightning.config.exported_folder import ExportedFolder
from qk_lightning.config.find_runs import parent_of
from qk_lightning.config.rank_variables import started_rank
from qk_lightning.config.run_folder import RunFolder
from qk_lightning.data.latent_cache import LatentCache
from qk_lightning.data.module import DataModule
from qk_lightning.sweeps.launch import train_on_ranks
from qk_lightning.sweeps.score import score
from qk_lightning.sweeps.trainer import ctrl_c, make_trainer
from qk_lightning.systems.base import System, build_system
from qk_lightning.tracking import mlflow_store, provenance
from qk_lightning.tracking.mlflow_missed import describe_missed
from qk_lightning.tracking.settings import note_settings
from qk_lightning.tracking.validation_pictures import ValidationPictures
from qk_lightning.training.callbacks import ProgressCallback, Report, RunFolderLogger
from qk_lightning.training.checkpoint_size import warn_before
from qk_lightning.training.checkpoints import KEPT, keep_newest, step_of
from qk_lightning.training.ema import EMACallback
from qk_lightning.training.perf import PerfCallback
from qk_lightning.training.quiet import quiet_lightning
from qk_lightning.training.rank_check import RankError, check_parts
from qk_lightning.training.ranks import Ranks, join
from qk_lightning.training.starting import Start, starting_checkpoint
from qk_lightning.training.stopping import StopBetweenSteps
from qk_lightning.training.strategy import ShardedStrategy

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
    alone = cfg.trainer.devices == 1 or started_rank(cfg.trainer.devices) is not None
    try:
        (train if alone else train_on_ranks)(run, cfg, report, seconds_before)
    except BaseException as error:
        seconds = seconds_before + time.perf_counter() - started
        state = "failed" if isinstance(error, Exception) else "stopped"
        run.write_status(state=state, error=f"{type(error).__name__}: {error}", seconds=seconds)
        raise
    if not alone and (missed := describe_missed(run)):  # a rank's log has it, which nobody reads
        log.warning("%s", missed)
    seconds = seconds_before + time.perf_counter() - started
    run.write_status(state="done", step=cfg.trainer.max_steps, seconds=seconds, finished=_now())


def train(run: RunFolder, cfg: DictConfig, report: Report | None, seconds_before: float) -> None:
    """Train, save and score, in this process or as one of several.

    Several train together, validate the same samples in step, and end by gathering what trained
    in the first process; that one saves and scores, as a process alone does, while others wait.

    Args:
        run: the run's folder; the first process alone writes to it.
        cfg: its configuration.
        report: called with progress while it trains.
        seconds_before: what the run had taken when it was last stopped.

    Raises:
        ConfigError: the parent or the configuration cannot be used.
        RankError: the ranks would train different models, or on the wrong samples.
    """
    ranks = _joined(run, cfg)
    world = open_world(cfg.data.world)
    world.prepare()
    start, system = _built(run, cfg, ranks)
    sources = provenance.source_digest(cfg)  # as they are before anyone edits them
    if ranks.is_first:
        _note_start(run, system, start, ranks)
    data = system.data_module(world, None)
    perf = PerfCallback(run, cfg)
    progress = ProgressCallback(run, perf.reporting(report), seconds_before)
    ema = EMACallback(cfg.ema.decay) if cfg.ema.decay else None
    loggers = [RunFolderLogger(run), *(_tracker(run, cfg) if ranks.is_first else [])]
    measured = [perf] if cfg.trainer.get("perf", True) else []  # an older run has none
    watchers = [*measured, progress, *([ema] if ema else []), ValidationPictures(run)]
    watchers.append(StopBetweenSteps(run, ranks))
    trainer = make_trainer(run, cfg, data, watchers, loggers, ranks, start)
    device = trainer.strategy.root_device
    if system.wants_latents:
        data.latents = LatentCache.open(world, system.parts["autoencoder"].to(device))
    if ranks.joined:
        check_parts(system.parts, ranks)
    _fit(run, trainer, system, data, ranks, start.checkpoint)
    system.to(device)  # Lightning leaves it on the CPU
    if ema is not None:
        ema.swap(system)
    if ranks.joined:
        system = _in_one_piece(system, trainer, data, ranks)
        if not ranks.is_first:
            ranks.end_together(run.name)
            return
    system.to(device).on_trained(data)
    write_entries(run, save_trained(run, system.parts, cfg.trainable, start.entries))
    score(run, system, trainer, data, loggers)
    write_json(run.sources_json, {**provenance.source_digest(cfg), **sources})
    if progress.seconds_per_step:  # a run resumed at its last step has none
        run.write_status(seconds_per_step=progress.seconds_per_step)
    mlflow_store.finish(loggers)
    keep_newest(run)
    ranks.end_together(run.name)


def _joined(run: RunFolder, cfg: DictConfig) -> Ranks:
    """Join the run's processes; all must train the same run."""
    ranks = join(cfg.trainer)
    if ranks.from_first(lambda: run.name) != run.name:  # it has written the folder by now
        raise RankError(f"rank {ranks.rank} was to train {run.name}, and the first one does not")
    return ranks


def _built(run: RunFolder, cfg: DictConfig, ranks: Ranks) -> tuple[Start, System]:
    """Find what a run starts from, and build the system that starts from it."""
    entries = starting_entries(cfg, families_of(cfg), _parent_of(run), run.path.parent)
    start = Start(entries, starting_checkpoint(run, cfg, entries, ranks))
    system = build_system(cfg, entries, run.path.parent)
    system.waits_for_mesh = ranks.joined and cfg.trainer.strategy == "fsdp"
    system.configure_model()
    return start, system


def _note_start(run: RunFolder, system: System, start: Start, ranks: Ranks) -> None:
    """Say and record what a run starts from, with what, and what it will need."""
    step = step_of(start.checkpoint) if start.checkpoint else 0
    print("\n".join(describe(start.entries, system.config.trainable, step)))
    write_json(run.path / "parameters.json", count_parameters(system.parts))
    write_json(run.provenance_json, provenance.collect())
    warn_before(run, system.parts, system.config, KEPT)
    for change in note_settings(run, system.config, ranks.world_size, step):
        log.info("%s goes on with other settings: %s", run.name, change)


def _in_one_piece(system: System, trainer: Trainer, data: DataModule, ranks: Ranks) -> System:
    """Return the trained system as one process has it; all ranks must call it.

    A sharded one is built anew in the first process, which scores and draws with it alone: it
    must fit there, whole, on the first device. The data go on as those of one process.
    """
    data.start_step = trainer.global_step
    data.trainer = None
    if not isinstance(trainer.strategy, ShardedStrategy):
        return system
    state = trained_whole(system, keep=ranks.is_first)
    if not ranks.is_first:
        return system
    alone = build_system(system.config, system.entries, system.root)
    alone.configure_model()
    load_trained(alone, state)
    return alone


def _fit(
    run: RunFolder,
    trainer: Trainer,
    system: System,
    data: DataModule,
    ranks: Ranks,
    checkpoint: Path | None,
) -> None:
    """Train, from a checkpoint if there is one.

    Raises:
        KeyboardInterrupt: the user stopped it.
    """
    if checkpoint is not None:
        data.start_step = step_of(checkpoint)
        log.info("%s goes on from step %d", run.name, data.start_step)
        if ranks.is_first:
            keep_newest(run, KEPT)  # Ctrl-C adds one each time
    if ranks.is_first:
        run.keep_metrics_until(data.start_step)
    with ctrl_c(), ranks.together():
        trainer.fit(system, datamodule=data, ckpt_path=checkpoint, weights_only=True)


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


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
