"""What a scene is: objects on a plain background, in units of the picture's side. No pixels here.

The vocabulary (shapes, colours, backgrounds, sizes), the outlines that renderer and reader share.
Drawing is in scene_art.py, words in scene_text.py, which scenes there are in scene_draw.py,
reading in evaluation/scene_reader.py.
Positions count from the picture's upper left corner: x to the right, y down, 0 to 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

# GenEval's ten colour names, in its order; sRGB.
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 39, 40),
    "orange": (255, 140, 0),
    "yellow": (245, 220, 40),
    "green": (40, 150, 60),
    "blue": (40, 90, 220),
    "purple": (130, 50, 170),
    "pink": (245, 130, 190),
    "brown": (120, 70, 30),
    "black": (20, 20, 20),
    "white": (250, 250, 250),
}
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "grey": (140, 140, 140),
    "cream": (235, 222, 185),
    "teal": (70, 170, 170),
    "navy": (25, 35, 85),
}
SMALL_SHAPES = ("circle", "square", "triangle", "cross", "ring")  # told apart at 32 px
SHAPES = (*SMALL_SHAPES, "diamond", "star", "heart")  # told apart at 64 px
# An object's size is the radius of the circle of equal area.
SIZES: dict[str, float] = {"small": 0.14, "big": 0.2}
MARKED_SHAPES = ("circle", "square", "triangle")  # wide enough inside to carry a mark
MARKS = ("circle", "square", "triangle", "cross")
MARK_SCALE = 0.5  # radius of a mark, in radii of what carries it
RELATIONS = ("left of", "right of", "above", "below")
_RING_HOLE = 0.5  # inner radius of a ring, in outer radii


@dataclass(frozen=True)
class SceneObject:
    """One object.

    Args:
        shape: One of SHAPES.
        colour: One of COLOURS.
        x: Centroid, to the right, 0 to 1.
        y: Centroid, down, 0 to 1.
        size: Radius of the circle of equal area, in picture sides.
        mark: Shape of a mark at its centre, one of MARKS; None without. A marked object is a
            subject whose identity is (shape, colour, mark, mark_colour).
        mark_colour: One of COLOURS, not the object's own; None without a mark.
    """

    shape: str
    colour: str
    x: float
    y: float
    size: float
    mark: str | None = None
    mark_colour: str | None = None

    @property
    def identity(self) -> tuple[str, str, str | None, str | None]:
        """What stays when an object is shown elsewhere."""
        return self.shape, self.colour, self.mark, self.mark_colour

    @property
    def reach(self) -> float:
        """Radius of the circle around the centroid that holds the whole outline."""
        return self.size * REACH[self.shape]


@dataclass(frozen=True)
class Scene:
    """Objects on a plain background.

    Args:
        objects: Any number; their order means nothing to the picture.
        background: One of BACKGROUNDS.
    """

    objects: tuple[SceneObject, ...]
    background: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "objects": [dict(vars(item)) for item in self.objects],
            "background": self.background,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Scene:
        """Read what `to_dict` wrote."""
        objects = tuple(SceneObject(**item) for item in values["objects"])
        return cls(objects, values["background"])


def inside(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Tell which points lie in a shape's unit outline, which has area pi and its centroid at 0.

    Args:
        shape: One of SHAPES.
        x: Points, to the right, in radii of the circle of equal area; any shape of array.
        y: Points, down.

    Returns:
        Bool, as shaped as x and y together.
    """
    scale = _SCALES[shape]
    return _OUTLINES[shape](np.asarray(x) / scale, np.asarray(y) / scale)


def _circle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return x**2 + y**2 <= 1


def _square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(abs(x), abs(y)) <= 1


def _diamond(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return abs(x) + abs(y) <= 1


def _triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    # Equilateral, a corner at the top, circumradius 1.
    return (y <= 0.5) & (math.sqrt(3) * abs(x) - y <= 1)


def _cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    # Five squares of side 2/3.
    wide, high = abs(x), abs(y)
    return (np.maximum(wide, high) <= 1) & (np.minimum(wide, high) <= 1 / 3)


def _ring(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x**2 + y**2 <= 1) & (x**2 + y**2 >= _RING_HOLE**2)


def _star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    # Five points; a tenth of it is a triangle between a tip and an inner corner.
    angle = np.arctan2(x, -y) % (2 * math.pi / 5)
    angle = np.minimum(angle, 2 * math.pi / 5 - angle)
    along, across = np.hypot(x, y) * np.cos(angle), np.hypot(x, y) * np.sin(angle)
    corner = _STAR_INNER * math.cos(math.pi / 5), _STAR_INNER * math.sin(math.pi / 5)
    return (corner[0] - 1) * across - corner[1] * (along - 1) >= 0


def _heart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    # A unit square on its corner with a half disc on each upper edge; its centroid is moved to 0.
    y = y + _HEART_CENTROID
    half = 1 / math.sqrt(2)
    lobes = (abs(x) - half / 2) ** 2 + (y + half / 2) ** 2 <= 1 / 4
    return (abs(x) + abs(y) <= half) | lobes


_STAR_INNER = 0.45  # radius of the inner corners; the tips are at 1
_HEART_CENTROID = (
    -(math.pi / 4) * (math.sqrt(2) / 4 + math.sqrt(2) / (3 * math.pi)) / (1 + math.pi / 4)
)
_OUTLINES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "cross": _cross,
    "ring": _ring,
    "diamond": _diamond,
    "star": _star,
    "heart": _heart,
}
_AREAS = {
    "circle": math.pi,
    "square": 4.0,
    "triangle": 3 * math.sqrt(3) / 4,
    "cross": 20 / 9,
    "ring": math.pi * (1 - _RING_HOLE**2),
    "diamond": 2.0,
    "star": 5 * _STAR_INNER * math.sin(math.pi / 5),
    "heart": 1 + math.pi / 4,
}
_SCALES = {shape: math.sqrt(math.pi / area) for shape, area in _AREAS.items()}
_FARTHEST = {  # from the centroid to the outline
    "circle": 1.0,
    "square": math.sqrt(2),
    "triangle": 1.0,
    "cross": math.sqrt(10) / 3,
    "ring": 1.0,
    "diamond": 1.0,
    "star": 1.0,
    "heart": 1 / math.sqrt(2) - _HEART_CENTROID,
}
REACH = {shape: _SCALES[shape] * _FARTHEST[shape] for shape in SHAPES}
