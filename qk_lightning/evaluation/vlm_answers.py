"""Asking a VLM the held-out questions of its worlds: what `eval/understanding/...` is made of.

Here: batches of questions through the VLM. Not here: what an answer is worth (understanding.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from qk_lightning.data.collate import to_unit
from qk_lightning.data.sample import World
from qk_lightning.data.worlds.asked_question import LONG, Question
from qk_lightning.evaluation.understanding import score_understanding
from qk_lightning.parts.vlms.base import VLMPart
from qk_lightning.systems.understanding import Understanding

MAX_ANSWER_TOKENS = 8  # of a short answer, such as "bottom right"
MAX_DESCRIPTION_TOKENS = 48  # the longest, of four objects, has 41 in the small VLM's tokenizer


@torch.no_grad()
def score_vlm(
    system: Understanding, world: World, num_questions: int, batch_size: int = 64
) -> dict[str, float]:
    """Ask a system's VLM held-out questions; see `score_understanding`.

    Args:
        system: With its VLM built and loaded.
        world: A world with questions, or a mixture.
        num_questions: Questions of each world.
        batch_size: Questions answered at once.

    Returns:
        `eval/understanding/<world>/<kind>/<measure>` and its baselines.
    """

    def answer(asked_world: World, questions: Sequence[Question]) -> list[str]:
        """Answer with this VLM."""
        return answers_of(system.vlm, asked_world, questions, batch_size)

    return score_understanding(answer, world, num_questions)


@torch.no_grad()
def answers_of(
    vlm: VLMPart, world: World, questions: Sequence[Question], batch_size: int = 64
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
