"""Questions about facts in words, and prompts that name by a fact what they ask for.

The scenes world's share of what facts.py knows: its colours, shapes and counts. Text only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from qk_lightning.data.sample import Split
from qk_lightning.data.worlds.asked_question import FACT, FACT_IN_CONTEXT, Question
from qk_lightning.data.worlds.facts import Fact, facts_about
from qk_lightning.data.worlds.scene_asks import COUNTS
from qk_lightning.data.worlds.scene_graph import COLOURS
from qk_lightning.data.worlds.scene_text import plural, with_article

if TYPE_CHECKING:
    from qk_lightning.data.worlds.scenes import Scenes

_NUMBER = {word: number for number, word in COUNTS.items()}
_T = TypeVar("_T")


def ask(world: Scenes, split: Split, rng: np.random.Generator) -> Question:
    """Ask for a fact; train knows every phrase, the last of each word only from here.

    Args:
        world: The scenes.
        split: Facts are the same in both.
        rng: Draws the fact.
    """
    del split
    fact = _pick(known_facts(world), rng)
    return Question(None, fact.question, fact.word, FACT, fact.topic, _num_words(world, fact))


def ask_in_context(world: Scenes, split: Split, rng: np.random.Generator) -> Question:
    """Put a fact into a prompt: ask for it, or answer the bare prompt by what it comes to.

    Args:
        world: The scenes.
        split: Train leaves out held-out phrases, and what no training picture shows.
        rng: Draws the prompt.
    """
    facts = [fact for fact in known_facts(world) if split == "val" or not fact.held_out]
    while True:
        fact = _pick(facts, rng)
        shape, colour = _pick(world.shapes, rng), _pick(tuple(COLOURS), rng)
        if split == "val" or not breaks(world, fact, shape, colour):
            break
    text, direct = told(fact, shape, colour)
    held_out = ("phrasing",) if fact.held_out else ()
    if rng.random() < 0.5:
        return Question(None, text, direct, FACT_IN_CONTEXT, "restated", 0, held_out)
    asked = {
        "colour": f"what colour is the {shape}?",
        "shape": "what shape is it?",
        "count": f"how many {plural(shape)} are there?",
    }[fact.topic]
    num_answers = _num_words(world, fact)
    text = f"{text} {asked}"
    return Question(None, text, fact.word, FACT_IN_CONTEXT, fact.topic, num_answers, held_out)


def told(fact: Fact, shape: str, colour: str) -> tuple[str, str]:
    """Put a fact into a prompt.

    Args:
        fact: What stands for a word.
        shape: What the prompt asks for, unless the fact is a shape.
        colour: Its colour, if the fact is a shape.

    Returns:
        The prompt with the fact, and the same prompt said directly.
    """
    if fact.topic == "colour":
        return f"a {shape} in {fact.phrase}.", f"{with_article(f'{fact.word} {shape}')}."
    if fact.topic == "shape":
        return f"{fact.phrase}, in {colour}.", f"{with_article(f'{colour} {fact.word}')}."
    return f"{fact.phrase} {plural(shape)}.", f"{fact.word} {plural(shape)}."


def knowledge_prompts(world: Scenes) -> Iterator[dict[str, Any]]:
    """Give prompts that name by a fact what they ask for, each with the same prompt said directly.

    Only what train shows in pictures is asked for: whatever goes wrong is the fact.

    Args:
        world: The scenes.

    Yields:
        "prompt", "direct", "topic", "word", "phrase", "held_out" (whether the phrase was held out
        of captions), and "include" and "exclude" in GenEval's schema. Facts take turns.
    """
    facts = known_facts(world)
    for turn in range(len(COLOURS) * len(world.shapes)):
        for number, fact in enumerate(facts):
            shape = world.shapes[(turn + number) % len(world.shapes)]
            colour = tuple(COLOURS)[(turn + number) % len(COLOURS)]
            if turn >= (len(COLOURS) if fact.topic == "shape" else len(world.shapes)):
                continue
            if breaks(world, fact, shape, colour):
                continue
            yield _knowledge_row(fact, shape, colour)


def _knowledge_row(fact: Fact, shape: str, colour: str) -> dict[str, Any]:
    prompt, direct = told(fact, shape, colour)
    include: dict[str, Any] = {"class": shape, "count": 1}
    exclude: list[dict[str, Any]] = []
    if fact.topic == "count":
        include["count"] = _NUMBER[fact.word]
        exclude = [{"class": shape, "count": include["count"] + 1}]
    elif fact.topic == "colour":
        include["color"] = fact.word
    else:
        include |= {"class": fact.word, "color": colour}
    return {
        "prompt": prompt,
        "direct": direct,
        "topic": fact.topic,
        "word": fact.word,
        "phrase": fact.phrase,
        "held_out": fact.held_out,
        "include": [include],
        "exclude": exclude,
    }


def known_facts(world: Scenes) -> tuple[Fact, ...]:
    """Return the facts about words of a world."""
    return facts_about({*COLOURS, *world.shapes, *COUNTS.values()})


def breaks(world: Scenes, fact: Fact, shape: str, colour: str) -> bool:
    """Tell whether a prompt with a fact comes to something that train never shows.

    Args:
        world: The scenes.
        fact: As in `told`.
        shape: As in `told`.
        colour: As in `told`.
    """
    if fact.topic == "count":
        return (_NUMBER[fact.word], shape) in world.held_out.counts
    pair = (shape, fact.word) if fact.topic == "colour" else (fact.word, colour)
    return pair in world.held_out.pairs


def _num_words(world: Scenes, fact: Fact) -> int:
    return len({other.word for other in known_facts(world) if other.topic == fact.topic})


def _pick(options: Sequence[_T], rng: np.random.Generator) -> _T:
    return options[int(rng.integers(len(options)))]
