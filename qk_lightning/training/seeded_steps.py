"""Global generators as a function of (seed, step, micro-batch, rank): nothing of them is saved.

The kit's own noise belongs to samples (data/randomness.py). What a library draws from the global
generators, such as dropout or a posterior's sample, follows the step: a resumed run draws what an
uninterrupted one does, wherever it was stopped.
"""

from __future__ import annotations

import hashlib
import random
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer


class SeededSteps(Callback):
    """Seed torch's, numpy's and Python's generators before each micro-batch; give them back after.

    Args:
        seed: the run's seed.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._place = (-1, -1)  # optimiser step, micro-batch in it
        self._before: tuple[Any, ...] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember the generators: this process may be a notebook's."""
        self._before = (torch.get_rng_state(), np.random.get_state(), random.getstate())

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Begin a micro-batch with numbers of its own."""
        step, number = self._place
        self._place = (
            (step, number + 1) if step == trainer.global_step else (trainer.global_step, 0)
        )
        words = (self.seed, *self._place, trainer.global_rank)
        digest = hashlib.sha256("/".join(map(str, words)).encode()).digest()
        torch.manual_seed(int.from_bytes(digest[:8]) >> 1)
        np.random.seed(int.from_bytes(digest[8:12]))
        random.seed(int.from_bytes(digest[12:20]))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the generators back."""
        self._give_back()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Give them back where training was stopped, too."""
        self._give_back()

    def _give_back(self) -> None:
        if self._before is not None:
            torch.set_rng_state(self._before[0])
            np.random.set_state(self._before[1])
            random.setstate(self._before[2])
            self._before = None
