"""What a question about a world is: the picture's row, the words, and how its answer is scored.

Not here: the questions themselves (avatar_questions.py, scene_questions.py), batches
(data/questions.py), scores (evaluation/understanding.py).
"""

from __future__ import annotations

from dataclasses import dataclass

# What a question rests on; scores are told apart by it.
LOOK = "look"  # a picture; the answer is short
READ = "read"  # a caption or a description in words; the answer is short
FACT = "fact"  # words' knowledge alone
FACT_IN_CONTEXT = "fact_in_context"  # a fact that stands for a word of a caption
DESCRIBE = "describe"  # a picture; the answer is its description
DRAW = "draw"  # a prompt as the head gets it, with its picture; what is the result?
EDIT = "edit"  # a description and an instruction in words; what is the result?
SHORT = (LOOK, READ, FACT, FACT_IN_CONTEXT)
LONG = (DESCRIBE, DRAW, EDIT)


@dataclass(frozen=True)
class Question:
    """A question with its only right answer.

    Args:
        row: The picture's row in the image table; None without a picture.
        text: What is asked.
        answer: What is right, word for word.
        kind: What it rests on, one of SHORT or LONG.
        topic: What it asks for, such as "colour"; the baselines are per kind and topic.
        num_answers: How many answers a topic has; guessing is right once in so many. 0 for
            descriptions, which nobody guesses.
        held_out: What of it train never shows, such as "pair"; empty for nothing.
    """

    row: int | None
    text: str
    answer: str
    kind: str
    topic: str
    num_answers: int = 0
    held_out: tuple[str, ...] = ()

    @property
    def as_asked(self) -> tuple[int | None, str, str]:
        """Row, question, answer: all that a VLM learns from."""
        return self.row, self.text, self.answer
