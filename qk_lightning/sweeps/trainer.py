"""The Lightning Trainer of a run, as its configuration has it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig

from qk_lightning.config.run_folder import RunFolder
from qk_lightning.data.module import DataModule
from qk_lightning.training.best import BestCheckpoint
from qk_lightning.training.checkpoints import AsideCheckpointIO, checkpoint_callback
from qk_lightning.training.guard import describe_step
from qk_lightning.training.rank_check import RankCheck
from qk_lightning.training.ranks import Ranks
from qk_lightning.training.starting import Start, step_callbacks
from qk_lightning.training.strategy import make_strategy


def make_trainer(
    run: RunFolder,
    cfg: DictConfig,
    data: DataModule,
    callbacks: list[Any],
    loggers: list[Logger],
    ranks: Ranks,
    start: Start,
) -> Trainer:
    """Make the Trainer of a run.

    Args:
        run: the run's folder.
        cfg: its configuration.
        data: its data; says how many micro-batches a step has on a rank.
        callbacks: those of the run, in order; checks and checkpoints stand around them.
        loggers: where metrics go.
        ranks: the run's processes.
        start: what it starts from.
    """
    options = cfg.trainer
    accumulated = data.micro_batches_per_step(ranks.world_size)
    checks = [RankCheck(ranks)] if ranks.joined else []
    if ranks.is_first:
        print(describe_step(options, ranks.world_size, accumulated), flush=True)
    before = step_callbacks(run, cfg, start, ranks)
    after: list[Any] = [checkpoint_callback(run, options.checkpoint_every)]
    if options.get("keep_best"):  # an older run has none
        after.append(BestCheckpoint(run, options.keep_best, ranks))
    return Trainer(
        default_root_dir=run.path,
        accelerator=options.accelerator,
        devices=options.devices,
        num_nodes=ranks.world_size // options.devices,
        strategy=make_strategy(options.strategy, ranks),
        inference_mode=not ranks.joined,  # its tensors cannot be gathered into
        precision=options.precision,
        max_epochs=-1,
        max_steps=options.max_steps,
        accumulate_grad_batches=accumulated,
        callbacks=[*checks, *before, *callbacks, *after],
        plugins=[AsideCheckpointIO()],
        logger=loggers,
        log_every_n_steps=options.log_every,
        **_validation(cfg.validation.every, accumulated),
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _validation(every: int, accumulated: int) -> dict[str, Any]:
    """Return Lightning's options for validating every so many steps, 0 for not while it trains."""
    if not every:
        return {"limit_val_batches": 0}
    return {"val_check_interval": every * accumulated, "check_val_every_n_epoch": None}


@contextmanager
def ctrl_c() -> Iterator[None]:
    """Let Ctrl-C come through as itself: Lightning ends the process, and ignores further ones."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as end:
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from end
