"""What words know: phrases that stand for a colour, a shape or a number without naming it.

No caption of a picture says them, so a head never meets them: a picture of "a circle in the
colour of grass." can be right only if the VLM's states carry what the VLM knows. The last phrase
of each word is held out of captions: it is asked as a plain fact only, never in a context.
Not here: how they are asked (scene_questions.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

COLOUR_FACTS: dict[str, tuple[str, ...]] = {
    "red": ("blood", "a ripe tomato", "a fire engine", "a strawberry", "a stop sign"),
    "orange": ("a carrot", "a pumpkin", "a basketball", "a tangerine"),
    "yellow": ("a ripe banana", "a lemon", "the sun", "a canary"),
    "green": ("grass", "a leaf", "a frog", "a cucumber"),
    "blue": ("the sky at noon", "the sea", "a sapphire", "jeans"),
    "purple": ("an eggplant", "a plum", "lavender", "grape juice"),
    "pink": ("a flamingo", "a piglet", "bubble gum", "cherry blossom"),
    "brown": ("chocolate", "coffee", "soil", "tree bark"),
    "black": ("coal", "the night sky", "a raven", "tar"),
    "white": ("snow", "milk", "chalk", "a swan"),
}
SHAPE_FACTS: dict[str, tuple[str, ...]] = {
    "circle": ("of a wheel", "of a coin", "of a plate", "of the full moon"),
    "square": ("of a chess board", "of a floor tile", "of a window pane", "of a stamp"),
    "triangle": ("with three sides", "of a pyramid", "of a roof", "of a slice of pizza"),
    "cross": ("of a plus sign", "on the swiss flag", "of a first aid sign", "on an ambulance"),
    "ring": ("of a doughnut", "of a tyre", "of a life belt", "of the letter o"),
    "diamond": ("of a kite", "of a rhombus", "of a baseball field", "on a joker's coat"),
    "star": ("with five points", "of a sheriff's badge", "on a christmas tree", "on a magic wand"),
    "heart": ("of love", "of a valentine", "of what beats in the chest", "of romance"),
}
COUNT_FACTS: dict[str, tuple[str, ...]] = {
    "two": ("one plus one", "three minus one", "half of four", "one more than one"),
    "three": ("two plus one", "four minus one", "half of six", "one more than two"),
    "four": ("two plus two", "five minus one", "half of eight", "one more than three"),
}


@dataclass(frozen=True)
class Fact:
    """A phrase and the word it stands for.

    Args:
        word: The word.
        phrase: What stands for it: "the colour of grass", "the shape with three sides",
            "two plus one".
        topic: "colour", "shape" or "count".
        held_out: Whether train never puts the phrase into a caption.
    """

    word: str
    phrase: str
    topic: str
    held_out: bool

    @property
    def question(self) -> str:
        """Ask for the word."""
        return f"what is {self.phrase}?"


def _facts() -> Iterator[Fact]:
    forms = {
        "colour": ("the colour of {}", COLOUR_FACTS),
        "shape": ("the shape {}", SHAPE_FACTS),
        "count": ("{}", COUNT_FACTS),
    }
    for topic, (form, table) in forms.items():
        for word, phrases in table.items():
            for phrase in phrases:
                yield Fact(word, form.format(phrase), topic, phrase == phrases[-1])


ALL_FACTS: tuple[Fact, ...] = tuple(_facts())


def facts_about(words: frozenset[str] | set[str], topic: str | None = None) -> tuple[Fact, ...]:
    """Return the facts whose word is among some.

    Args:
        words: What there is in a world.
        topic: "colour", "shape" or "count"; None for all.
    """
    return tuple(f for f in ALL_FACTS if f.word in words and topic in (None, f.topic))
