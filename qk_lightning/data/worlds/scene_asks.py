"""Short questions about one scene, or about what a prompt asks for, and their exact answers.

Every question has one right answer of one or two words; an asker that cannot ask anything
unambiguous gives None. Not here: which scene, how often what is asked (scene_questions.py).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np

from qk_lightning.data.worlds.scene_graph import (
    BACKGROUNDS,
    COLOURS,
    MARKS,
    SIZES,
    Scene,
    SceneObject,
)
from qk_lightning.data.worlds.scene_places import PLACES, place_of, relation_between, size_word
from qk_lightning.data.worlds.scene_text import NUMBERS, plural, with_article

COUNTS = {1: "one", **NUMBERS}
Rng = np.random.Generator
_T = TypeVar("_T")
Pair = tuple[str, str]  # shape, colour


class Asked(NamedTuple):
    """A short question with its answer, the topic and how many answers the topic has."""

    text: str
    answer: str
    topic: str
    num_answers: int


@dataclass(frozen=True)
class About:
    """What is asked about and what may be said.

    Args:
        scene: The scene.
        shapes: All shapes of the world.
        unsaid: (shape, colour) that no question may name, not even to deny them.
    """

    scene: Scene
    shapes: Sequence[str]
    unsaid: Collection[Pair] = ()


Asker = Callable[[About, Rng], Asked | None]


def _pick(options: Sequence[_T], rng: Rng) -> _T:
    return options[int(rng.integers(len(options)))]


def _named(scene: Scene, *ways: str) -> list[tuple[str, SceneObject]]:
    """Name objects by what no other object shares: shape, colour or place.

    Args:
        scene: Whose objects.
        ways: Keys of _NAMES.

    Returns:
        A phrase such as "the circle" and the object, for each way and object.
    """
    named = []
    for way in ways:
        values = [_KEYS[way](item) for item in scene.objects]
        for value, item in zip(values, scene.objects, strict=True):
            if values.count(value) == 1:
                named.append((_NAMES[way].format(value), item))
    return named


_KEYS: dict[str, Callable[[SceneObject], str]] = {
    "shape": lambda item: item.shape,
    "colour": lambda item: item.colour,
    "place": lambda item: place_of(item.x, item.y).name,
}
_NAMES = {"shape": "the {}", "colour": "the {} object", "place": "the object at the {}"}


def _colour(about: About, rng: Rng) -> Asked | None:
    named = _named(about.scene, "shape", "place")
    if not named:
        return None
    what, item = _pick(named, rng)
    return Asked(f"what colour is {what}?", item.colour, "colour", len(COLOURS))


def _shape(about: About, rng: Rng) -> Asked | None:
    named = _named(about.scene, "colour", "place")
    if not named:
        return None
    what, item = _pick(named, rng)
    return Asked(f"what shape is {what}?", item.shape, "shape", len(about.shapes))


def _where(about: About, rng: Rng) -> Asked | None:
    named = _named(about.scene, "shape", "colour")
    if not named:
        return None
    what, item = _pick(named, rng)
    return Asked(f"where is {what}?", _KEYS["place"](item), "place", len(PLACES))


def _count(about: About, rng: Rng) -> Asked | None:
    what, count = "objects", len(about.scene.objects)
    if any(item.mark for item in about.scene.objects):  # does a mark count?
        return None
    if count == 1 and rng.random() < 0.7:  # most pictures show one; few questions should
        return None
    if rng.random() < 0.5:
        shape = _pick(about.scene.objects, rng).shape
        what, count = plural(shape), sum(item.shape == shape for item in about.scene.objects)
    return Asked(f"how many {what} are there?", COUNTS[count], "count", len(COUNTS))


def _exists(about: About, rng: Rng) -> Asked | None:
    return exists({(item.shape, item.colour) for item in about.scene.objects}, about, rng)


def exists(pairs: set[Pair], about: About, rng: Rng) -> Asked:
    """Ask whether something of a colour and shape is there; yes half the time.

    A 'no' is close: half of them put a shape and a colour together that are there, each with
    another partner, so that only who has which colour decides.

    Args:
        pairs: (shape, colour) of what is there.
        about: What may be said.
        rng: Draws.
    """
    if rng.random() < 0.5:
        shape, colour = _pick(sorted(pairs), rng)
        return Asked(f"is there {with_article(colour)} {shape}?", "yes", "exists", 2)
    ours = {shape for shape, _ in pairs}, {colour for _, colour in pairs}
    marks = {(item.mark, item.mark_colour) for item in about.scene.objects}
    out = {*pairs, *marks, *about.unsaid}
    absent = [(s, c) for s in about.shapes for c in COLOURS if (s, c) not in out]
    near = [(s, c) for s, c in absent if s in ours[0] and c in ours[1]]
    far = [(s, c) for s, c in absent if s in ours[0] or c in ours[1]]
    shape, colour = _pick(near if near and rng.random() < 0.5 else far, rng)
    return Asked(f"is there {with_article(colour)} {shape}?", "no", "exists", 2)


def _relation(about: About, rng: Rng) -> Asked | None:
    objects = about.scene.objects
    if len(objects) != 2 or objects[0].shape == objects[1].shape:
        return None
    item, other = objects if rng.random() < 0.5 else objects[::-1]
    along = relation_between(item, other)
    if along is None:
        return None
    text = f"what shape is {along} the {other.shape}?"
    return Asked(text, item.shape, "relation", len(about.shapes))


def _background(about: About, rng: Rng) -> Asked | None:
    text = "what colour is the background?"
    return Asked(text, about.scene.background, "background", len(BACKGROUNDS))


def _size(about: About, rng: Rng) -> Asked | None:
    named = _named(about.scene, "shape")
    if not named:
        return None
    what, item = _pick(named, rng)
    return Asked(f"is {what} big or small?", size_word(item.size), "size", len(SIZES))


def _mark(about: About, rng: Rng) -> Asked | None:
    named = [(what, item) for what, item in _named(about.scene, "shape") if item.mark]
    if not named:
        return None
    what, item = _pick(named, rng)
    if rng.random() < 0.5:
        return Asked(f"what shape is the mark on {what}?", str(item.mark), "mark", len(MARKS))
    text = f"what colour is the mark on {what}?"
    return Asked(text, str(item.mark_colour), "mark_colour", len(COLOURS))


# How often each is tried first; who cannot ask leaves the turn to another.
_ASKERS: dict[Asker, int] = {
    _colour: 5,
    _shape: 5,
    _where: 4,
    _exists: 4,
    _mark: 4,
    _count: 3,
    _relation: 3,
    _size: 2,
    _background: 1,
}


def ask(about: About, rng: Rng) -> Asked:
    """Draw a short question about a scene.

    Args:
        about: The scene and what may be said.
        rng: Draws.
    """
    weights = np.array(list(_ASKERS.values()), dtype=float)
    order = rng.choice(len(weights), len(weights), replace=False, p=weights / weights.sum())
    askers = list(_ASKERS)
    for number in order:
        if asked := askers[int(number)](about, rng):
            return asked
    raise AssertionError("the background can always be asked for")


def ask_of_prompt(facts: Mapping[str, Any], about: About, rng: Rng) -> Asked:
    """Draw a short question that a prompt answers.

    Args:
        facts: Of the prompt's sample: what it asks for.
        about: What may be said.
        rng: Draws.
    """
    include = facts["include"]
    ways = [asked for clause in include for asked in _of_clause(clause, include, about)]
    if all("color" in clause for clause in include):
        pairs = {(clause["class"], clause["color"]) for clause in include}
        ways.append(exists(pairs, about, rng))
    if facts["asks_background"]:
        text, answer = "what colour is the background?", facts["scene"]["background"]
        ways.append(Asked(text, answer, "background", len(BACKGROUNDS)))
    if not ways:
        total = sum(clause["count"] for clause in include)
        return Asked("how many objects are there?", COUNTS[total], "count", len(COUNTS))
    return _pick(ways, rng)


def _of_clause(
    clause: Mapping[str, Any], include: Sequence[Mapping[str, Any]], about: About
) -> Iterator[Asked]:
    """Ask all that one clause of a prompt answers, where its words name it alone."""
    shape, colour = clause["class"], clause.get("color")
    if sum(other["class"] == shape for other in include) == 1:
        if colour:
            yield Asked(f"what colour is the {shape}?", colour, "colour", len(COLOURS))
        if "size" in clause:
            yield Asked(f"is the {shape} big or small?", clause["size"], "size", len(SIZES))
        if clause["count"] > 1:
            text = f"how many {plural(shape)} are there?"
            yield Asked(text, COUNTS[clause["count"]], "count", len(COUNTS))
    if colour and sum(other.get("color") == colour for other in include) == 1:
        yield Asked(f"what shape is the {colour} object?", shape, "shape", len(about.shapes))
    if "position" in clause:
        relation, other = clause["position"]
        text = f"what shape is {relation} the {include[other]['class']}?"
        yield Asked(text, shape, "relation", len(about.shapes))
