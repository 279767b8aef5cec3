"""Teaching a small VLM to describe pictures and to answer questions about them and about captions.

The laptop's stand-in for the pretrained VLMs that the papers start from.
B questions.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from omegaconf import DictConfig
from torch import Tensor

from qk_lightning.assembly.weights import Entry
from qk_lightning.data.questions import QuestionData, Questions
from qk_lightning.data.sample import World
from qk_lightning.systems.base import System

if TYPE_CHECKING:
    from qk_lightning.data.latent_cache import LatentCache

MAX_ANSWER_TOKENS = 4


class Understanding(System):
    """Next-token prediction of answers.

    Args:
        config: the resolved configuration.
        entries: where the part's weights come from.
        root: the folder that holds the run folders.
    """

    families = ("vlm",)
    uses_tasks = False  # it asks questions in place of tasks
    wired = ("config", "entries", "root")

    def __init__(
        self, *, config: DictConfig, entries: list[Entry], root: Path | None = None
    ) -> None:
        super().__init__(config, entries, root)

    def data_module(self, world: World, latents: LatentCache | None) -> QuestionData:
        """Return questions in place of samples."""
        cfg = self.config
        return QuestionData(world, cfg.trainer.global_batch_size, cfg.validation.num_samples)

    def training_step(self, batch: list[Questions], batch_idx: int) -> Tensor:
        """Return the loss over questions with and without a picture, weighted by their number."""
        total = sum(len(part.questions) for part in batch)
        loss = torch.zeros((), device=self.device)
        for part in batch:
            inputs = self.vlm.prepare(part.questions, part.images)
            share = len(part.questions) / total
            loss = loss + share * self.vlm.language_loss(inputs, part.answers)
        self.log("train/loss", loss, batch_size=total)
        return loss

    def validation_step(self, batch: list[Questions], batch_idx: int) -> None:
        """Log the loss, and the share of short answers that are right word for word."""
        for part in batch:
            inputs = self.vlm.prepare(part.questions, part.images)
            loss = self.vlm.language_loss(inputs, part.answers)
            self.log("val/loss", loss, batch_size=len(part.questions))
            short = [number for number, text in enumerate(part.answers) if len(text.split()) == 1]
            answers = self.vlm.answer(inputs, MAX_ANSWER_TOKENS)
            right = [answers[n].strip() == part.answers[n].strip() for n in short]
            kind = "text" if part.images is None else "image"
            if right:
                share = sum(right) / len(right)
                self.log(f"val/accuracy/{kind}", share, batch_size=len(right))
