"""Questions and answers about avatars, for the training of a small VLM.

Not here: captions and instructions (avatar_text.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from qk_lightning.data.sample import Sample
from qk_lightning.data.worlds.asked_question import DESCRIBE, DRAW, LOOK, READ, Question
from qk_lightning.data.worlds.avatar_tables import LEFT, RIGHT
from qk_lightning.data.worlds.avatar_text import Words, description, pick

QUESTIONS = {
    "hair_style": ("what is the hair style{}?", "how is the hair worn{}?"),
    "hair_colour": ("what is the hair colour{}?", "which colour is the hair{}?"),
    "skin": ("what is the skin colour{}?", "which colour is the skin{}?"),
    "beard": ("is there a beard{}?", "do you see a beard{}?"),
    "glasses": ("are there glasses{}?", "do you see glasses{}?"),
    "expression": ("what is the expression{}?", "how does the face look{}?"),
    "shirt": ("what is the shirt colour{}?", "which colour is the shirt{}?"),
    "background": ("what is the background colour?", "which colour is the background?"),
}
DESCRIPTION = ("describe the picture.", "what do you see?", "write a caption.")


def ask(
    row: int | None,
    said: str,
    words: Words,
    rng: np.random.Generator,
    num_answers: Mapping[str, int],
    held_out: tuple[str, ...] = (),
) -> Question:
    """Ask for one attribute.

    Args:
        row: The picture's row; None where it is asked of a caption.
        said: The caption in front of the question, or nothing.
        words: The attributes (left_* and right_* for two people).
        rng: Draws the attribute and the phrasing.
        num_answers: How many words each attribute has.
        held_out: What of it train never shows.
    """
    name = pick(tuple(words), rng)
    side = next((s for s in (LEFT, RIGHT) if name.startswith(s)), "")
    where = f" of the person on the {side.rstrip('_')}" if side else ""
    topic = name.removeprefix(side)
    question = f"{said} {pick(QUESTIONS[topic], rng).format(where)}".strip()
    kind = READ if row is None else LOOK
    return Question(row, question, words[name], kind, topic, num_answers[topic], held_out)


def ask_for_description(
    row: int, words: Words, rng: np.random.Generator, held_out: tuple[str, ...] = ()
) -> Question:
    """Ask for a caption; the answer has one phrasing only, which a VLM can learn to give."""
    return Question(
        row, pick(DESCRIPTION, rng), description(words), DESCRIBE, "person", held_out=held_out
    )


def from_sample(sample: Sample) -> Question:
    """Take a prompt as the head gets it: nothing is asked, the answer says what will be seen.

    Args:
        sample: Of one person; with a picture at most.
    """
    held_out = ("pair",) if is_held_out_pair(sample.facts) else ()
    answer = description(sample.facts["attributes"])
    row = sample.images[0] if sample.images else None
    return Question(row, sample.prompt, answer, DRAW, sample.task, held_out=held_out)


def is_held_out_pair(facts: Mapping[str, Any]) -> bool:
    """Tell whether a sample shows a pair of words that train never shows."""
    held_out = facts.get("held_out", False)
    return bool(held_out["pair"] if isinstance(held_out, Mapping) else held_out)


def all_questions(words: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
    """Give every question and every one-word answer once.

    Args:
        words: The values of each attribute.
    """
    for name, options in words.items():
        for text in QUESTIONS[name]:
            for where in ("", " of the person on the left", " of the person on the right"):
                yield text.format(where)
        yield from options
    yield from DESCRIPTION
