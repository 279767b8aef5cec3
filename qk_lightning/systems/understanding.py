"""Teaching a small VLM to describe pictures and to answer questions about them and about captions.

The laptop's stand-in for the pretrained VLMs that the papers start from.
B questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from qk_lightning.assembly.weights import Entry
from qk_lightning.data.collate import to_unit
from qk_lightning.data.questions import QuestionData, Questions
from qk_lightning.data.sample import World
from qk_lightning.data.worlds.asked_question import LONG, Question
from qk_lightning.evaluation.understanding import score_understanding
from qk_lightning.systems.base import System

if TYPE_CHECKING:
    from qk_lightning.data.latent_cache import LatentCache
    from qk_lightning.parts.vlms.qwen2_5_vl import Qwen25VL

MAX_ANSWER_TOKENS = 8  # of a short answer, such as "bottom right"
MAX_DESCRIPTION_TOKENS = 48  # the longest, of four objects, has 41 in the small VLM's tokenizer
SHORT_WORDS = 2  # answers of more words are descriptions
SCORED = 4  # at the end, times validation.num_samples questions of each world


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
        self.final_scores: dict[str, float] = {}

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
        self.log("train/loss", loss, batch_size=total)
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

    def on_trained(self, data: QuestionData) -> None:  # type: ignore[override]
        """Ask held-out questions; the scores go out with the last validation."""
        num_questions = SCORED * self.config.validation.num_samples
        self.final_scores = score_vlm(self.vlm, data.world, num_questions)

    def on_validation_epoch_end(self) -> None:
        """Log what `on_trained` found."""
        self.log_dict(self.final_scores)


@torch.no_grad()
def score_vlm(
    vlm: Qwen25VL, world: World, num_questions: int, batch_size: int = 64
) -> dict[str, float]:
    """Ask a VLM held-out questions; see `evaluation.understanding.score_understanding`.

    Args:
        vlm: A VLM that was taught by `Understanding`.
        world: A world with questions, or a mixture.
        num_questions: Questions of each world.
        batch_size: Questions answered at once.

    Returns:
        `eval/understanding/<world>/<kind>/<measure>` and its baselines.
    """

    def answer(asked_world: World, questions: Sequence[Question]) -> list[str]:
        """Answer with this VLM."""
        return answers_of(vlm, asked_world, questions, batch_size)

    return score_understanding(answer, world, num_questions)


@torch.no_grad()
def answers_of(
    vlm: Qwen25VL, world: World, questions: Sequence[Question], batch_size: int = 64
) -> list[str]:
    """Answer questions greedily, those alike together.

    Args:
        vlm: The VLM.
        world: Whose pictures the rows are.
        questions: Any number.
        batch_size: Questions answered at once.

    Returns:
        One text a question, without spaces at its ends.
    """
    groups: dict[tuple[bool, bool], list[int]] = {}
    for number, question in enumerate(questions):
        groups.setdefault((question.row is not None, question.kind in LONG), []).append(number)
    answers = [""] * len(questions)
    for (with_image, is_long), members in groups.items():
        for first in range(0, len(members), batch_size):
            chosen = members[first : first + batch_size]
            rows = [questions[n].row for n in chosen]
            images = (
                to_unit(np.stack([world.image(row) for row in rows if row is not None]))[:, None]
                if with_image
                else None
            )
            inputs = vlm.prepare([questions[n].text for n in chosen], images)
            limit = MAX_DESCRIPTION_TOKENS if is_long else MAX_ANSWER_TOKENS
            for number, text in zip(chosen, vlm.answer(inputs, limit), strict=True):
                answers[number] = text.strip()
    return answers
