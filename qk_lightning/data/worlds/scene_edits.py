"""Edits of scenes: one change of objects or background, source and target both fit to be shown.

Not here: their words (scene_orders.py), scenes that nobody edits (scene_draw.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from qk_lightning.data.worlds.scene_draw import SceneDrawer, alike, pick
from qk_lightning.data.worlds.scene_graph import BACKGROUNDS, COLOURS, SIZES, Scene, SceneObject
from qk_lightning.data.worlds.scene_places import PLACES, anchor, place_of

_CHANGES_A_SOURCE = 4  # a change is cheaper to draw than a source


@dataclass(frozen=True)
class Edit:
    """A scene, one change and what comes of it.

    Args:
        op: One of OPS.
        source: The scene before.
        target: The scene after; objects keep their order, an added one is the last.
        objects: Which objects of the source are spoken of: one, two (swap) or none.
    """

    op: str
    source: Scene
    target: Scene
    objects: tuple[int, ...]


# What a change makes of objects and background, and which objects it is about.
_Changed = tuple[list[SceneObject], str, tuple[int, ...]]
_Change = Callable[[SceneDrawer, Scene, int, np.random.Generator], _Changed | None]


def draw_edit(
    drawer: SceneDrawer, op: str, rng: np.random.Generator, breaks: str | None = None
) -> Edit:
    """Draw a scene and a change of it.

    Args:
        drawer: Knows the shapes and what is held out.
        op: One of OPS.
        rng: Draws everything.
        breaks: The kind of held-out combination that the result shows; None for nothing held
            out, neither before nor after.
    """
    while True:
        source = _source(drawer, op, rng, (None, breaks))
        if not (drawer.fits(source, None) or drawer.fits(source, breaks)):
            continue
        for _ in range(_CHANGES_A_SOURCE):
            number = int(rng.integers(len(source.objects)))
            changed = _CHANGES[op](drawer, source, number, rng)
            if changed is None:
                continue
            objects, background, spoken_of = changed
            target = Scene(tuple(objects), background)
            if target != source and _distinct(objects) and drawer.fits(target, breaks):
                return Edit(op, source, target, spoken_of)


def _source(
    drawer: SceneDrawer, op: str, rng: np.random.Generator, breaks: tuple[str | None, ...]
) -> Scene:
    """Draw one to three objects, no two alike in shape and colour."""
    count = int(rng.integers(2 if op in ("remove", "swap") else 1, 3 if op == "add" else 4))
    while True:
        objects = []
        for _ in range(count):
            shape, colour = pick(drawer.shapes, rng), pick(tuple(COLOURS), rng)
            size = pick(tuple(SIZES), rng) if count < 3 else "small"
            objects.append(SceneObject(shape, colour, 0.5, 0.5, drawer.sized(size, rng)))
        background = pick(tuple(BACKGROUNDS), rng)
        if _distinct(objects) and drawer.may_fit(objects, background, breaks):
            return drawer.scattered(objects, background, rng)


def _distinct(objects: Sequence[SceneObject]) -> bool:
    """Tell whether "the red circle" names one object at most."""
    return len({(item.shape, item.colour) for item in objects}) == len(objects)


def _with(scene: Scene, number: int, **values: object) -> _Changed:
    """Change one object of a scene."""
    items = list(scene.objects)
    items[number] = replace(items[number], **values)  # type: ignore[arg-type]
    return items, scene.background, (number,)


def _recolour(
    drawer: SceneDrawer, scene: Scene, number: int, rng: np.random.Generator
) -> _Changed | None:
    colour = pick(tuple(COLOURS), rng)
    if alike(colour, scene.objects[number].colour):
        return None
    return _with(scene, number, colour=colour)


def _replace(drawer: SceneDrawer, scene: Scene, number: int, rng: np.random.Generator) -> _Changed:
    return _with(scene, number, shape=pick(drawer.shapes, rng))


def _add(drawer: SceneDrawer, scene: Scene, number: int, rng: np.random.Generator) -> _Changed:
    # Always small: the instruction does not say how big.
    shape, colour = pick(drawer.shapes, rng), pick(tuple(COLOURS), rng)
    item = SceneObject(shape, colour, 0.5, 0.5, SIZES["small"])
    x, y = anchor(pick(PLACES, rng), item.reach)
    return [*scene.objects, replace(item, x=x, y=y)], scene.background, ()


def _remove(drawer: SceneDrawer, scene: Scene, number: int, rng: np.random.Generator) -> _Changed:
    rest = [item for index, item in enumerate(scene.objects) if index != number]
    return rest, scene.background, (number,)


def _move(
    drawer: SceneDrawer, scene: Scene, number: int, rng: np.random.Generator
) -> _Changed | None:
    item, place = scene.objects[number], pick(PLACES, rng)
    if place == place_of(item.x, item.y):
        return None
    x, y = anchor(place, item.reach)
    return _with(scene, number, x=x, y=y)


def _swap(
    drawer: SceneDrawer, scene: Scene, number: int, rng: np.random.Generator
) -> _Changed | None:
    items = list(scene.objects)
    other = (number + 1 + int(rng.integers(len(items) - 1))) % len(items)
    a, b = items[number], items[other]
    if a.shape == b.shape or alike(a.colour, b.colour):
        return None
    items[number], items[other] = replace(a, colour=b.colour), replace(b, colour=a.colour)
    return items, scene.background, (number, other)


def _background(
    drawer: SceneDrawer, scene: Scene, number: int, rng: np.random.Generator
) -> _Changed:
    return list(scene.objects), pick(tuple(BACKGROUNDS), rng), ()


_CHANGES: dict[str, _Change] = {
    "recolour": _recolour,
    "replace": _replace,
    "add": _add,
    "remove": _remove,
    "move": _move,
    "swap": _swap,
    "background": _background,
}
OPS = tuple(_CHANGES)
