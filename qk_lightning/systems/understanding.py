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

MAX_ANSWER_TOKENS = 8  # of a short answer, such as "bottom right"
SHORT_WORDS = 2  # answers of more words are descriptions


class Understanding(System):
    """Next-token prediction of answers; at the end of a run, evaluation/vlm_answers.py scores it.

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
            share = len(part.questions) / total
            loss = loss + share * self._loss(part)
        return loss

    def _loss(self, part: Questions) -> Tensor:
        """Mean next-token loss of the answers.

        An answer begins with a space: so its first word is the token that captions have for it,
        and what the VLM answers and what it reads share their embeddings.
        """
        inputs = self.vlm.prepare(part.questions, part.images)
        return self.vlm.language_loss(inputs, [f" {answer}" for answer in part.answers])

    def validation_step(self, batch: list[Questions], batch_idx: int) -> None:
        """Log the loss, and the share of short answers that are right word for word."""
        for part in batch:
            self.log("val/loss", self._loss(part), batch_size=len(part.questions))
            short = [n for n, text in enumerate(part.answers) if len(text.split()) <= SHORT_WORDS]
            if not short:
                continue
            images = None if part.images is None else part.images[short]
            inputs = self.vlm.prepare([part.questions[n] for n in short], images)
            answers = self.vlm.answer(inputs, MAX_ANSWER_TOKENS)
            right = [
                given.strip() == part.answers[n] for n, given in zip(short, answers, strict=True)
            ]
            kind = "text" if part.images is None else "image"
            self.log(f"val/accuracy/{kind}", sum(right) / len(right), batch_size=len(right))
