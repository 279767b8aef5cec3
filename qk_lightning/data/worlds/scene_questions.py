"""Questions about scenes for the training of a small VLM: what is asked, how often, of what.

A VLM that conditions a head is given a prompt and perhaps a picture, then queries. So most of
what it learns here is to say from just these what the picture will show (kind "draw"), in one
phrasing of which every word counts; the short questions make objects, colours and places easy to
read off its states. Not here: the short questions (scene_asks.py), facts (scene_facts.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from qk_lightning.data.sample import Split
from qk_lightning.data.worlds import scene_asks as asks
from qk_lightning.data.worlds import scene_facts
from qk_lightning.data.worlds.asked_question import (
    DESCRIBE,
    DRAW,
    EDIT,
    FACT,
    FACT_IN_CONTEXT,
    LOOK,
    READ,
    Question,
)
from qk_lightning.data.worlds.facts import ALL_FACTS
from qk_lightning.data.worlds.scene_graph import Scene
from qk_lightning.data.worlds.scene_items import (
    EDITED,
    ELSEWHERE,
    NUM_KINDS,
    SCENE,
    SOURCE,
    SUBJECT,
    SUBJECTS,
)
from qk_lightning.data.worlds.scene_restated import restate
from qk_lightning.data.worlds.scene_text import description, pick

if TYPE_CHECKING:
    from qk_lightning.data.worlds.scenes import Scenes

DESCRIPTION = ("describe the picture.", "what do you see?", "write a caption.")
# Of 21 questions; 12 have a picture, 5 of them ask for its description.
_TURNS = {DESCRIBE: 5, LOOK: 5, DRAW: 4, READ: 3, EDIT: 1, FACT: 1, FACT_IN_CONTEXT: 2}
# Which picture of an item; marked subjects are half of them, scenes what prompts ask for most.
_ROWS = {SCENE: 4, SOURCE: 1, EDITED: 1, SUBJECT: 1, ELSEWHERE: 1, SUBJECTS: 1}
# Whose prompts are answered as the head gets them.
_DRAWN = {"text_to_image": 4, "editing": 2, "reconstruction": 1, "customised": 1}
Rng = np.random.Generator
_Key = TypeVar("_Key")


def question(world: Scenes, index: int, split: Split) -> Question:
    """Draw a question; endless and a pure function of the index.

    Args:
        world: The scenes.
        index: Any number from 0.
        split: Whose pictures are asked about; train never names what is held out.
    """
    rng = world.rng("qa", split, index)
    return _ASK[_draw(_TURNS, rng)](world, split, rng)


def _draw(weights: Mapping[_Key, int], rng: Rng) -> _Key:
    edges = np.cumsum(list(weights.values()))
    return list(weights)[int(np.searchsorted(edges, rng.integers(edges[-1]), side="right"))]


def _row(world: Scenes, split: Split, rng: Rng) -> tuple[int, Scene]:
    rows = world.rows(split)
    row = rows[int(rng.integers(len(rows) // NUM_KINDS)) * NUM_KINDS + _draw(_ROWS, rng)]
    return row, world.scene_of(row)


def _about(world: Scenes, split: Split, scene: Scene) -> asks.About:
    """In train no question names a held-out pair, not even to deny it."""
    return asks.About(scene, world.shapes, world.held_out.pairs if split == "train" else ())


def _broken(world: Scenes, scene: Scene) -> tuple[str, ...]:
    return tuple(world.held_out.violations(scene))


# ---- pictures


def _describe(world: Scenes, split: Split, rng: Rng) -> Question:
    row, scene = _row(world, split, rng)
    text = pick(DESCRIPTION, rng)
    broken = _broken(world, scene)
    return Question(row, text, description(scene), DESCRIBE, "scene", held_out=broken)


def _look(world: Scenes, split: Split, rng: Rng) -> Question:
    row, scene = _row(world, split, rng)
    asked = asks.ask(_about(world, split, scene), rng)
    return _short(row, "", asked, LOOK, _broken(world, scene))


def _short(
    row: int | None, said: str, asked: asks.Asked, kind: str, held_out: tuple[str, ...]
) -> Question:
    text = f"{said} {asked.text}".strip()
    return Question(row, text, asked.answer, kind, asked.topic, asked.num_answers, held_out)


# ---- prompts


def _sample(world: Scenes, task: str, split: Split, rng: Rng) -> Any:
    return world.sample(task, split, int(rng.integers(world.num_samples(task, split))))


def _held_out(facts: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(sorted(name for name, broken in facts["held_out"].items() if broken))


def _prompt(world: Scenes, split: Split, rng: Rng) -> Question:
    """Take a prompt and its picture as the head gets them; the answer says what will be seen."""
    task = _draw(_DRAWN, rng)
    sample = _sample(world, task, split, rng)
    row = sample.images[0] if sample.images else None
    scene = Scene.from_dict(sample.facts["scene"])
    is_caption = task == "text_to_image"
    answer = restate(sample.prompt, scene, sample.facts) if is_caption else description(scene)
    return Question(row, sample.prompt, answer, DRAW, task, held_out=_held_out(sample.facts))


def _read(world: Scenes, split: Split, rng: Rng) -> Question:
    """Ask for something that a prompt or a description says."""
    if rng.random() < 0.3:
        _, scene = _row(world, split, rng)
        asked = asks.ask(_about(world, split, scene), rng)
        return _short(None, description(scene), asked, READ, _broken(world, scene))
    sample = _sample(world, "text_to_image", split, rng)
    scene = Scene.from_dict(sample.facts["scene"])
    asked = asks.ask_of_prompt(sample.facts, _about(world, split, scene), rng)
    return _short(None, sample.prompt, asked, READ, _held_out(sample.facts))


def _edit(world: Scenes, split: Split, rng: Rng) -> Question:
    """Tell a scene and an instruction in words; the answer describes the result."""
    sample = _sample(world, "editing", split, rng)
    before, after = (Scene.from_dict(sample.facts[key]) for key in ("source_scene", "scene"))
    text = f"{description(before)} {sample.prompt}"
    tag = sample.facts["tag"]
    return Question(None, text, description(after), EDIT, tag, held_out=_held_out(sample.facts))


# ---- for the tokenizer


def texts(world: Scenes, num_drawn: int = 2000) -> Iterator[str]:
    """Give every fact, every word of a scene and `num_drawn` drawn questions with their answers.

    Args:
        world: The scenes.
        num_drawn: How many.
    """
    for fact in ALL_FACTS:
        yield f"{fact.question} {fact.word}"
        yield from scene_facts.told(fact, "circle", "red")
    yield from DESCRIPTION
    for index in range(num_drawn):
        _, asked, answer = question(world, index, "train").as_asked
        yield f"{asked} {answer}"
    yield from all_asked(world)


def all_asked(world: Scenes) -> Iterator[str]:
    """Give prompts of every task and split, held-out words included: no word is unknown.

    Args:
        world: The scenes.
    """
    for task in world.tasks:
        for split in ("train", "val"):
            for index in range(min(64, world.num_samples(task, split))):
                yield world.sample(task, split, index).prompt


_ASK: dict[str, Callable[[Scenes, Split, Rng], Question]] = {
    DESCRIBE: _describe,
    LOOK: _look,
    DRAW: _prompt,
    READ: _read,
    EDIT: _edit,
    FACT: scene_facts.ask,
    FACT_IN_CONTEXT: scene_facts.ask_in_context,
}
