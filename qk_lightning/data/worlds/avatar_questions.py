"""Questions and answers about avatars, for the training of a small VLM.

Not here: captions and instructions (avatar_text.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

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
DESCRIBE = ("describe the picture.", "what do you see?", "write a caption.")


def ask(words: Words, rng: np.random.Generator) -> tuple[str, str]:
    """Ask for one attribute of a picture.

    Args:
        words: Its attributes (left_* and right_* for two people).
        rng: Draws the attribute and the phrasing.

    Returns:
        Question, answer.
    """
    name = pick(tuple(words), rng)
    side = next((s for s in (LEFT, RIGHT) if name.startswith(s)), "")
    where = f" of the person on the {side.rstrip('_')}" if side else ""
    question = pick(QUESTIONS[name.removeprefix(side)], rng)
    return question.format(where), words[name]


def ask_for_description(words: Words, rng: np.random.Generator) -> tuple[str, str]:
    """Ask for a caption; the answer has one phrasing only, which a VLM can learn to give."""
    return pick(DESCRIBE, rng), description(words)


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
    yield from DESCRIBE
