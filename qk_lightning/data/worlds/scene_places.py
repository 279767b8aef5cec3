"""Where objects of a scene are: nine places, relations, what fits; pure geometry.

Not here: outlines (scene_graph.py), which scenes are drawn (scene_draw.py).
Unit: the picture's side. All objects keep off the borders between places, so that every object
has one place and no reader can doubt it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from qk_lightning.data.worlds.scene_graph import REACH, SIZES, Scene, SceneObject

GAP = 0.06  # least distance of two reach circles
THIRDS = (0.4, 0.6)  # the borders between places
MARGIN = 0.03  # how far centroids stay from those borders
STEEPNESS = 1.5  # of a relation: offset along the axis / offset across it
SETTLE_TRIES = 12
# Where an instruction such as "to the left" puts a centroid: on corners of the squares of 8 x 8
# pixels that the small codec reads, so that a shape falls apart in the same way at every place.
ANCHORS = (0.25, 0.5, 0.75)
_COLUMNS, _ROWS = ("left", "", "right"), ("top", "", "bottom")
_SIZE_BORDER = math.sqrt(SIZES["small"] * SIZES["big"])


class Place(NamedTuple):
    """One of the nine places.

    Args:
        column: 0 left, 1 centre, 2 right.
        row: 0 top, 1 centre, 2 bottom.
    """

    column: int
    row: int

    @property
    def name(self) -> str:
        """One of "top left", "top", ..., "centre", ..., "bottom right"."""
        return f"{_ROWS[self.row]} {_COLUMNS[self.column]}".strip() or "centre"


PLACES = tuple(Place(column, row) for row in range(3) for column in range(3))


def place_of(x: float, y: float) -> Place:
    """Return the place of a point."""
    column, row = (sum(value > border for border in THIRDS) for value in (x, y))
    return Place(column, row)


def anchor(place: Place, reach: float) -> tuple[float, float]:
    """Return the centroid of an object that is put at a place, moved inwards until it fits."""
    x, y = (min(max(ANCHORS[index], reach), 1 - reach) for index in place)
    return x, y


def size_word(size: float) -> str:
    """Return "small" or "big"."""
    return "big" if size > _SIZE_BORDER else "small"


def relation_between(a: SceneObject, b: SceneObject) -> str | None:
    """Say how A lies to B where that is beyond doubt.

    Args:
        a: An object.
        b: Another.

    Returns:
        One of RELATIONS, or None where the offset is nearly diagonal.
    """
    right, down = a.x - b.x, a.y - b.y
    if abs(right) >= STEEPNESS * abs(down):
        return "right of" if right > 0 else "left of"
    if abs(down) >= STEEPNESS * abs(right):
        return "below" if down > 0 else "above"
    return None


def shown_relations(a: SceneObject, b: SceneObject) -> list[str]:
    """List all relations of A to B that a picture shows, doubtful ones too.

    A share over 0.5 of the offset's length is GenEval's own limit, so a diagonal shows two.

    Args:
        a: An object.
        b: Another.

    Returns:
        One or two of RELATIONS.
    """
    right, down = a.x - b.x, a.y - b.y
    half = 0.5 * math.hypot(right, down)
    shares = {"left of": -right, "right of": right, "above": -down, "below": down}
    return [relation for relation, share in shares.items() if share > half]


def stands(scene: Scene) -> bool:
    """Tell whether objects stay inside, apart, off the borders and each at a place of its own."""
    items = scene.objects
    for item in items:
        for value in (item.x, item.y):
            if not item.reach - 1e-9 <= value <= 1 - item.reach + 1e-9:
                return False
            if min(abs(value - border) for border in THIRDS) < MARGIN - 1e-9:
                return False
    if len({place_of(item.x, item.y) for item in items}) < len(items):
        return False
    return all(
        math.hypot(a.x - b.x, a.y - b.y) >= a.reach + b.reach + GAP - 1e-9
        for k, a in enumerate(items)
        for b in items[:k]
    )


def settle(
    shapes: Sequence[str], sizes: Sequence[float], rng: np.random.Generator
) -> list[tuple[float, float]]:
    """Draw a place for each object and put it at that place's anchor.

    Args:
        shapes: One shape an object.
        sizes: One size an object.
        rng: Draws the places.

    Returns:
        One centroid an object; they may still fail `stands`.
    """
    reach = [REACH[shape] * size for shape, size in zip(shapes, sizes, strict=True)]
    for _ in range(SETTLE_TRIES):
        chosen = rng.permutation(len(PLACES))[: len(reach)]
        points = [anchor(PLACES[int(n)], r) for n, r in zip(chosen, reach, strict=True)]
        if not _push([list(point) for point in points], reach):
            break
    return points


def scatter(
    shapes: Sequence[str], sizes: Sequence[float], rng: np.random.Generator
) -> list[tuple[float, float]]:
    """Draw centroids anywhere, then push those apart that are too near.

    Args:
        shapes: One shape an object.
        sizes: One size an object.
        rng: Draws the centroids.

    Returns:
        One centroid an object; they may still fail `stands`.
    """
    reach = [REACH[shape] * size for shape, size in zip(shapes, sizes, strict=True)]
    points = [[r + (1 - 2 * r) * float(rng.random()) for _ in range(2)] for r in reach]
    for _ in range(15):
        if not _push(points, reach):
            break
    return [(_off_border(x), _off_border(y)) for x, y in points]


def _push(points: list[list[float]], reach: list[float]) -> bool:
    """Move every pair that is too near apart, inside the picture; tell whether there was one."""
    moved = False
    for k, a in enumerate(points):
        for other, b in enumerate(points[:k]):
            right, down = b[0] - a[0], b[1] - a[1]
            distance = math.hypot(right, down) or 1e-6
            missing = reach[k] + reach[other] + GAP - distance
            if missing > 0:
                moved = True
                step = (missing / 2 + 1e-3) / distance
                for point, r, sign in ((a, reach[k], -step), (b, reach[other], step)):
                    point[0] = min(max(point[0] + sign * right, r), 1 - r)
                    point[1] = min(max(point[1] + sign * down, r), 1 - r)
    return moved


def _off_border(value: float) -> float:
    """Move a coordinate off the borders between places, to the nearer side."""
    for border in THIRDS:
        if abs(value - border) < MARGIN:
            return border + (MARGIN if value > border else -MARGIN)
    return value
