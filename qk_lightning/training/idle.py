"""What trains by the configuration and never gets a gradient: named, with why that may be."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from qk_lightning.assembly.shard import is_sharded
from qk_lightning.config.atomic import write_json
from qk_lightning.config.run_folder import RunFolder
from qk_lightning.training.ranks import Ranks

LOOKED = 20  # optimiser steps before a word is said
KEY = "without_gradient"
SHOWN = 4
log = logging.getLogger("qk_lightning")


class IdleParameters(Callback):
    """Watch which parameters get a gradient that is not all zeros; name the others.

    They are named in the log after the first steps, and kept in parameters.json below their part
    (`without_gradient`); one that learns later is taken out again when training ends. Zeros count
    as none: the first gradient behind a weight that begins at zero is zero, not the second.

    Args:
        run: the run's folder; the first rank writes.
        ranks: the run's processes.
    """

    def __init__(self, run: RunFolder, ranks: Ranks) -> None:
        self.run = run
        self.ranks = ranks
        self._idle: list[str] | None = None  # None before the first step
        self._steps = 0
        self._saw_images = False
        self._expected: tuple[str, ...] = ()  # what parts say of themselves

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say it again where a run goes on: parameters.json is written at every start."""
        parts = getattr(pl_module, "parts", {}).values()
        self._expected = tuple(name for part in parts for name in part.idle)
        if self._steps >= self._last_look(trainer):
            self._record()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note whether any picture was read."""
        self._saw_images |= getattr(batch, "images", None) is not None

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Take out what has a gradient by now; a wait for the device only while some is left."""
        learns = {name: p for name, p in pl_module.named_parameters() if p.requires_grad}
        waiting = list(learns) if self._idle is None else self._idle
        given = {name: learns[name].grad for name in waiting if learns[name].grad is not None}
        moved = set(_not_zero(given)) if given else set()
        self._idle = [name for name in waiting if name not in moved]
        self._steps += 1
        if self._steps == self._last_look(trainer):
            self._agree()
            self._warn()
            self._record()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record what never learned at all."""
        if self._steps > self._last_look(trainer):
            before = self._idle
            self._agree()
            if before:
                self._record()

    @staticmethod
    def _last_look(trainer: Trainer) -> int:
        return min(LOOKED, max(1, trainer.max_steps))

    def _agree(self) -> None:
        """Keep what no rank saw move: of a sharded gradient each rank sees its part."""
        if self.ranks.joined:
            of_ranks = self.ranks.everyone(self._idle or [])
            common = set(of_ranks[0]).intersection(*of_ranks[1:])
            self._idle = [name for name in of_ranks[0] if name in common]

    def _warn(self) -> None:
        if not self._idle or not self.ranks.is_first:
            return
        surprising = [name for name in self._idle if not name.endswith(self._expected)]
        if not surprising:
            return
        unseen = "" if self._saw_images else "; no micro-batch had a picture to read"
        log.warning(
            "%d parameters got no gradient in the first %d steps: %s. They do not learn: nothing "
            "reads what they make, or no sample so far needed them%s. All their names stand in "
            "parameters.json under %s",
            len(surprising), self._steps, "; ".join(grouped(surprising)), unseen, KEY,
        )  # fmt: skip

    def _record(self) -> None:
        if not self.ranks.is_first:
            return
        counts = self.run.read_json("parameters.json")
        for values in counts.values():
            values.pop(KEY, None)
        for name in self._idle or []:
            counts.setdefault(name.partition(".")[0], {}).setdefault(KEY, []).append(name)
        write_json(self.run.path / "parameters.json", counts)

    def state_dict(self) -> dict[str, Any]:
        """Return what was seen so far; of this rank, the others' is seen again."""
        return {"idle": self._idle, "steps": self._steps, "saw_images": self._saw_images}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take what a checkpoint saw."""
        self._idle, self._steps = state_dict["idle"], state_dict["steps"]
        self._saw_images = state_dict["saw_images"]


def _not_zero(gradients: Mapping[str, Tensor]) -> list[str]:
    """Name the gradients that are not all zeros, with one wait for the device."""
    local = [g.to_local() if is_sharded(g) else g for g in gradients.values()]  # type: ignore[attr-defined]
    moved = torch.stack([g.any() for g in local]).tolist()
    return [name for name, moves in zip(gradients, moved, strict=True) if moves]


def grouped(names: Iterable[str]) -> list[str]:
    """Group parameter names by part and module, numbers of blocks left out.

    Args:
        names: such as `vlm.model.visual.blocks.0.attn.qkv.lora_A.default.weight`.

    Returns:
        Such as `vlm: 4 of model.visual.blocks`, the largest groups of a part first.
    """
    parts: dict[str, dict[str, int]] = {}
    for name in names:
        part, _, rest = name.partition(".")
        module = re.split(r"\.\d+\.", rest)[0]
        module = module.rpartition(".")[0] or module if module == rest else module
        of_part = parts.setdefault(part, {})
        of_part[module] = of_part.get(module, 0) + 1
    lines = []
    for part, modules in parts.items():
        ordered = sorted(modules.items(), key=lambda item: -item[1])
        more = f" and {len(ordered) - SHOWN} more modules" if len(ordered) > SHOWN else ""
        said = ", ".join(f"{count} of {module}" for module, count in ordered[:SHOWN])
        lines.append(f"{part}: {said}{more}")
    return lines
