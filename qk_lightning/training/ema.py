"""Exponential moving average of what trains, as a callback that never copies the model."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

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
        self._is_swapped = False
        self._last_step = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with the weights, or with the average of the resumed checkpoint."""
        live = trainable_state(pl_module)
        self.shadow = {
            name: self._loaded.get(name, weight).detach().clone().to(weight.device)
            for name, weight in live.items()
        }

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember the step that is averaged already."""
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
            torch._foreach_lerp_(
                [self.shadow[name] for name in names], [live[name] for name in names], 1 - decay
            )

    def swap(self, pl_module: LightningModule) -> None:
        """Exchange weights and average.

        Args:
            pl_module: the system.
        """
        with torch.no_grad():
            for name, weight in trainable_state(pl_module).items():
                kept = weight.detach().clone()
                weight.copy_(self.shadow[name])
                self.shadow[name].copy_(kept)
        self._is_swapped = not self._is_swapped

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate the average."""
        if self.shadow and not self._is_swapped:
            self.swap(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Train on with the weights."""
        if self._is_swapped:
            self.swap(pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Return the average, for the checkpoint."""
        return {"shadow": self.shadow}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the average of a checkpoint."""
        self._loaded = state_dict["shadow"]
