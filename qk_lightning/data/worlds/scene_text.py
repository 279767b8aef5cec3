"""What the scenes world says of one picture: captions with exactly what they ask for.

A prompt and its include and exclude clauses (GenEval's schema) are made in one place, so they
cannot disagree. Texts are lower case, at most 40 words; a telling draws its words from a
generator. Held-out phrasings are frames that train never uses, of words that train does use.
Not here: instructions (scene_orders.py), questions (scene_questions.py), pictures (scene_art.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from qk_lightning.data.worlds.scene_graph import Scene, SceneObject
from qk_lightning.data.worlds.scene_places import place_of, relation_between, size_word

NUMBERS = {2: "two", 3: "three", 4: "four"}
FRAMES = (
    "{}.",
    "a picture of {}.",
    "draw {}.",
    "an image with {}.",
    "show {}.",
    "the picture shows {}.",
)
HELD_OUT_FRAMES = ("draw a picture with {}.", "the image shows {}.", "show an image of {}.")
CAPTIONS = (
    "on a {background} background: {things}.",
    "{things}, on a {background} background.",
    "a picture of {things}. the background is {background}.",
    "draw {things} on a plain {background} background.",
    "a {background} picture with {things}.",
)
CLAUSES = {
    "left of": ("left of", "to the left of", "on the left of"),
    "right of": ("right of", "to the right of", "on the right of"),
    "above": ("above",),
    "below": ("below", "under"),
}


class Telling(NamedTuple):
    """A prompt and what it asks for.

    Args:
        prompt: The text.
        include: Clauses that a picture must meet, in GenEval's schema (and "size").
        exclude: Clauses that it must not meet.
        asks_background: Whether the prompt names the background.
    """

    prompt: str
    include: list[dict[str, Any]]
    exclude: list[dict[str, Any]]
    asks_background: bool


def pick(options: Sequence[str], rng: np.random.Generator) -> str:
    """Draw one of several texts."""
    return options[int(rng.integers(len(options)))]


def with_article(words: str) -> str:
    """Put 'a' or 'an' before a phrase."""
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def plural(shape: str) -> str:
    """Name several objects of a shape."""
    return f"{shape}es" if shape.endswith("s") else f"{shape}s"


def joined(things: Sequence[str]) -> str:
    """Join phrases by commas and a last 'and'."""
    return " and ".join([", ".join(things[:-1]), things[-1]]) if len(things) > 1 else things[0]


def name(item: SceneObject, *, colour: bool = True, size: bool = False) -> str:
    """Name an object without an article: 'small red circle'; a mark is not told.

    Args:
        item: The object.
        colour: Whether to say its colour.
        size: Whether to say its size.
    """
    said = [size_word(item.size)] * size + [item.colour] * colour + [item.shape]
    return " ".join(said)


def full_name(item: SceneObject) -> str:
    """Name an object with article, size, colour and mark."""
    words = with_article(name(item, size=True))
    if item.mark is None:
        return words
    return f"{words} with {with_article(f'{item.mark_colour} {item.mark} mark')}"


def in_order(scene: Scene) -> list[SceneObject]:
    """Sort a scene's objects by column, left to right, then from top to bottom."""
    return sorted(scene.objects, key=lambda item: place_of(item.x, item.y))


def description(scene: Scene) -> str:
    """Describe a scene fully, always in the same phrasing.

    Args:
        scene: One to four objects at different places.

    Returns:
        Such as "on a navy background: a small red circle at the top left, a big blue square at
        the right."
    """
    things = ", ".join(_at_place(item) for item in in_order(scene))
    return CAPTIONS[0].format(background=scene.background, things=things)


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """Describe a scene fully (size, colour, shape, place, background), in one of several ways.

    Args:
        scene: One to four objects at different places.
        rng: Draws phrasing and order.
    """
    things = [_at_place(item) for item in in_order(scene)]
    if rng.random() < 0.5:
        rng.shuffle(things)
    return pick(CAPTIONS, rng).format(background=scene.background, things=", ".join(things))


def tell(scene: Scene, tag: str, rng: np.random.Generator, *, held_out: bool = False) -> Telling:
    """Ask for a scene as GenEval's task `tag` does: the tag's own facts and no others.

    Args:
        scene: A scene drawn for that tag.
        tag: One of scene_draw.TAGS.
        rng: Draws the phrasing.
        held_out: Whether to use a phrasing that train never uses.
    """
    frame = pick(HELD_OUT_FRAMES if held_out else FRAMES, rng)
    first, rest = scene.objects[0], scene.objects[1:]
    if tag == "position":
        relation = relation_between(first, rest[0])
        assert relation is not None
        joint = CLAUSES[relation][0] if held_out else pick(CLAUSES[relation], rng)
        core = f"{with_article(first.shape)} {joint} {with_article(rest[0].shape)}"
        include = [clause(rest[0], colour=False), clause(first, colour=False)]
        include[1]["position"] = [relation, 0]
        return Telling(frame.format(core), include, [], False)
    if tag == "counting":
        number = len(scene.objects)
        core = f"{NUMBERS[number]} {plural(first.shape)}"
        include = [{"class": first.shape, "count": number}]
        exclude = [{"class": first.shape, "count": number + 1}]
        return Telling(frame.format(core), include, exclude, False)
    colour, size = tag in ("colors", "color_attr", "three_object", "background"), tag == "size"
    core = joined([with_article(name(i, colour=colour, size=size)) for i in scene.objects])
    include = [clause(item, colour=colour, size=size) for item in scene.objects]
    if tag == "background":
        core = f"{core} on a {scene.background} background"
    return Telling(frame.format(core), include, [], tag == "background")


def tell_more(scene: Scene, rng: np.random.Generator) -> Telling:
    """Ask for a scene in more words than its tag needs, so that a model learns from each picture.

    Args:
        scene: One to four objects at different places.
        rng: Draws how much is said and how: 6 of 10 say all, 2 colours and places, 2 colours,
            sizes and the background.
    """
    include, turn = counted(scene), int(rng.integers(10))
    if turn < 6:
        return Telling(caption(scene, rng), include, [], True)
    if turn < 8:
        things = [f"{with_article(name(i))} {on_place(i)}" for i in in_order(scene)]
        return Telling(pick(FRAMES, rng).format(joined(things)), include, [], False)
    groups: dict[str, int] = {}
    for item in scene.objects:
        words = name(item, size=True)
        groups[words] = groups.get(words, 0) + 1
    things = [_several(words, number) for words, number in groups.items()]
    prompt = pick(CAPTIONS, rng).format(background=scene.background, things=joined(things))
    return Telling(prompt, include, [], True)


def clause(item: SceneObject, *, colour: bool = True, size: bool = False) -> dict[str, Any]:
    """Make GenEval's clause of one object."""
    words: dict[str, Any] = {"class": item.shape, "count": 1}
    if colour:
        words["color"] = item.colour
    if size:
        words["size"] = size_word(item.size)
    return words


def counted(scene: Scene) -> list[dict[str, Any]]:
    """Make the clauses of all objects; equal ones (shape and colour) are counted together."""
    clauses: list[dict[str, Any]] = []
    for item in scene.objects:
        same = (c for c in clauses if (c["class"], c["color"]) == (item.shape, item.colour))
        known = next(same, None)
        if known is None:
            clauses.append(clause(item))
        else:
            known["count"] += 1
    return clauses


def on_place(item: SceneObject) -> str:
    """Say where an object is: 'at the top left', 'on the right'."""
    place = place_of(item.x, item.y).name
    return f"{'on' if place in ('left', 'right') else 'at'} the {place}"


def _at_place(item: SceneObject) -> str:
    return f"{full_name(item)} at the {place_of(item.x, item.y).name}"


def _several(words: str, number: int) -> str:
    return with_article(words) if number == 1 else f"{NUMBERS[number]} {plural(words)}"
