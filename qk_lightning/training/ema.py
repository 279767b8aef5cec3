"""Exponential moving average of what trains, as a callback that never copies the model."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from qk_lightning.assembly.shard import is_sharded, like, whole
from qk_lightning.assembly.trainable import trainable_state


class EMACallback(Callback):
    """Keep shadow <- decay shadow + (1 - decay) weight; swap it in for validation.

    The decay is warmed up, min(decay, (1 + step) / (10 + step)), so that short runs do not keep
    their first weights.

    Args:
        decay: in (0, 1).
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.shadow: dict[str, Tensor] = {}
        self._loaded: dict[str, Tensor] = {}
        self._kept: dict[str, Tensor] = {}  # the weights, while the average stands in their place
        self._is_first = True
        self._last_step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with the weights, or with the average of the resumed checkpoint.

        Where weights are sharded the average is too: each rank keeps that of its shards.
        """
        self.shadow = {}
        for name, weight in trainable_state(pl_module).items():
            start = like(self._loaded[name], weight) if name in self._loaded else weight
            self.shadow[name] = start.detach().clone().to(weight.device).float()
        self._is_first = trainer.is_global_zero
        self._last_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Average after each optimiser step."""
        step = trainer.global_step
        if step == self._last_step:
            return  # between micro-batches of one step
        self._last_step = step
        decay = min(self.decay, (1 + step) / (10 + step))
        live = trainable_state(pl_module)
        names = list(self.shadow)
        with torch.no_grad():
            weights = [live[name].float() for name in names]
            torch._foreach_lerp_([self.shadow[name] for name in names], weights, 1 - decay)

    def swap(self, pl_module: LightningModule) -> None:
        """Put the average in the weights' place, or the weights back.

        Args:
            pl_module: the system.
        """
        live = trainable_state(pl_module)
        kept = {} if self._kept else {name: w.detach().clone() for name, w in live.items()}
        average = self.shadow
        if not average:  # resumed at its last step, so it trains no more
            average = {name: like(value, live[name]) for name, value in self._loaded.items()}
        with torch.no_grad():
            for name, weight in live.items():
                weight.copy_((self._kept or average)[name])
        self._kept = kept

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate the average."""
        if self.shadow and not self._kept:
            self.swap(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Train on with the weights."""
        if self._kept:
            self.swap(pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Return the average, for the checkpoint: gathered, and in the first process alone."""
        if not any(is_sharded(average) for average in self.shadow.values()):
            return {"shadow": self.shadow}
        shadow = {}
        for name, average in self.shadow.items():
            gathered = whole(average)
            if self._is_first:
                shadow[name] = gathered.cpu()
        return {"shadow": shadow}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the average of a checkpoint."""
        self._loaded = state_dict["shadow"]
