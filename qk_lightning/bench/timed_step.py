"""A run's training steps, as `qk fit` takes them, in turns of a few steps each.

The Trainer, its strategy, precision and averaging are the run's own; left out are validation,
checkpoints and scoring. Weights are those that the preset starts from, without its parent: a step
takes as long whatever they are.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from omegaconf import DictConfig, OmegaConf

from qk_lightning.bench.turns import Memory, Report, Turn, Turns, wait_for_device

LONG_TEXT = "a portrait of a smiling person with red hair and a blue hat. "


class TakeTurns(Callback):
    """Lets the Trainer go on for some steps when it is its turn.

    Args:
        turns: when that is.
        steps: optimiser steps a turn.
        perf: the run's own measuring, or None.
    """

    def __init__(self, turns: Turns, steps: int, perf: Any) -> None:
        self.turns = turns
        self.steps = steps
        self.perf = perf
        self._turn: Turn | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to watch the memory."""
        self._memory = Memory(trainer.strategy.root_device)
        self._next = self.steps  # the first ones warm up

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Between two steps: end a turn and wait for the next."""
        if trainer.global_step < self._next or trainer.should_stop:
            return
        wait_for_device(trainer.strategy.root_device)
        if self._turn is not None:
            found = self.perf.latest if self.perf is not None else {}
            self.turns.took(self._turn, self.steps, found)
        if self.perf is not None:
            self.perf.pause()
        if not self.turns.wait():
            self.turns.end({"step": self._memory.grown()})
            trainer.should_stop = True
        if self.perf is not None:
            self.perf.go_on()
        self._next += self.steps
        self._turn = Turn()


def run(
    text: str,
    steps: int,
    joint: bool,
    text_length: int | None,
    variables: dict[str, str],
    bell: str,
    report: Report,
) -> None:
    """Train in turns.

    Args:
        text: YAML of the resolved configuration (`variants.configuration`).
        steps: optimiser steps a turn.
        joint: run prompt and queries in one forward, though the VLM is frozen.
        text_length: tokens of every prompt; None for the world's own prompts.
        variables: of the environment; those of a rank among them where there are several.
        bell: see `Turns`.
        report: see `Turns`.
    """
    cfg = begun(text, variables)
    with tempfile.TemporaryDirectory() as folder:
        trainer, system, data = _prepared(cfg, Path(folder), steps, Turns(bell, report))
        if joint:
            read_jointly(system.vlm)
        if text_length is not None:
            _lengthen(system.vlm, text_length)
        trainer.fit(system, datamodule=data)


def begun(text: str, variables: dict[str, str]) -> DictConfig:
    """Take over the variables of this process, and read what it is to do.

    Args:
        text: YAML of the resolved configuration.
        variables: of the environment; the number of threads is among them.

    Returns:
        The configuration.
    """
    os.environ.update(variables)
    torch.set_num_threads(int(variables["OMP_NUM_THREADS"]))
    cfg = OmegaConf.create(text)
    assert isinstance(cfg, DictConfig)
    return cfg


def _prepared(cfg: DictConfig, folder: Path, steps: int, turns: Turns) -> tuple[Any, Any, Any]:
    """Build what `sweeps.stage.train` builds, without what is left out here."""
    from qk_lightning.assembly.build import families_of, open_world
    from qk_lightning.assembly.weights import starting_entries
    from qk_lightning.config.run_folder import RunFolder
    from qk_lightning.data.latent_cache import LatentCache
    from qk_lightning.sweeps.trainer import make_trainer
    from qk_lightning.systems.base import build_system
    from qk_lightning.training.ema import EMACallback
    from qk_lightning.training.perf import PerfCallback
    from qk_lightning.training.quiet import quiet_lightning
    from qk_lightning.training.ranks import join
    from qk_lightning.training.starting import Start

    quiet_lightning()
    ranks, run = join(cfg.trainer), RunFolder(folder / "run-0")
    run.path.mkdir()
    world = open_world(cfg.data.world)
    world.prepare()
    entries = starting_entries(cfg, families_of(cfg), None, folder)
    system = build_system(cfg, entries, folder)
    system.waits_for_mesh = ranks.joined and cfg.trainer.strategy == "fsdp"
    system.configure_model()
    data = system.data_module(world, None)
    perf = PerfCallback(run, cfg) if cfg.trainer.get("perf", True) else None
    watchers: list[Any] = [perf] if perf is not None else []
    watchers += [EMACallback(cfg.ema.decay)] if cfg.ema.decay else []
    watchers.append(TakeTurns(turns, steps, perf))
    trainer = make_trainer(run, cfg, data, watchers, [], ranks, Start(entries))
    if system.wants_latents:
        device = trainer.strategy.root_device
        data.latents = LatentCache.open(world, system.parts["autoencoder"].to(device))
    return trainer, system, data


def read_jointly(vlm: Any) -> None:
    """Make a frozen VLM do as one that trains: one forward, gradient through all positions.

    Args:
        vlm: the part; its class becomes a subclass.
    """
    joint = {"_trains": property(lambda self: True)}
    vlm.__class__ = type(f"Joint{type(vlm).__name__}", (type(vlm),), joint)


def _lengthen(vlm: Any, length: int) -> None:
    """Give every prompt the same number of tokens; the part cuts them to its limit."""
    prepare, text = vlm.prepare, long_text(vlm, length)
    vlm.prepare = lambda prompts, images=None: prepare([text] * len(prompts), images)


def long_text(vlm: Any, length: int) -> str:
    """Return a text of at least so many tokens.

    Args:
        vlm: the part, whose `max_prompt_tokens` cuts it.
        length: tokens.

    Raises:
        ValueError: the part would cut it shorter.
    """
    if vlm.hparams.max_prompt_tokens < length:
        raise ValueError(f"vlm.max_prompt_tokens: {vlm.hparams.max_prompt_tokens} < {length}")
    return LONG_TEXT * length  # more than one token each
