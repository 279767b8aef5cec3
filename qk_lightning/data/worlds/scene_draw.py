"""Which scenes there are: drawn objects and marked subjects.

Everything is drawn until it stands (nothing touches, every place is clear), contrasts with its
background and shows of the held-out combinations just what is wanted: nothing, or one kind.
Not here: edits (scene_edits.py), pixels (scene_art.py), words (scene_text.py), rows
(scene_items.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from qk_lightning.data.worlds.scene_graph import (
    BACKGROUNDS,
    COLOURS,
    MARKS,
    SIZES,
    Scene,
    SceneObject,
)
from qk_lightning.data.worlds.scene_places import (
    PLACES,
    anchor,
    relation_between,
    scatter,
    settle,
    stands,
)
from qk_lightning.data.worlds.scene_split import COUNTS, HeldOut

# GenEval's tasks and three more, with their weights in train: telling ones are frequent.
TAGS = {
    "single_object": 1,
    "colors": 4,
    "two_object": 1,
    "counting": 4,
    "position": 4,
    "color_attr": 5,
    "three_object": 3,
    "size": 2,
    "background": 4,
}
SIZE_JITTER = 0.05
SUBJECT_SIZE = 0.26  # of a reference: its marks are clearest
UNCLEAR = {("white", "cream"), ("black", "navy")}  # colour, background
# Colours that are near each other: no mark on the other one, no change to the other one.
ALIKE = (
    ("blue", "purple"),
    ("brown", "black"),
    ("red", "orange"),
    ("orange", "yellow"),
    ("red", "brown"),
    ("purple", "pink"),
)
_T = TypeVar("_T")


class SceneDrawer:
    """Draws scenes and subjects.

    Args:
        shapes: The shapes in use.
        held_out: What train never shows.
        free: Objects stand anywhere and differ a little in size, not at nine points in two sizes.
    """

    def __init__(self, shapes: Sequence[str], held_out: HeldOut, free: bool = False) -> None:
        self.shapes = tuple(shapes)
        self.held_out = held_out
        self.free = free

    def scene(self, tag: str, rng: np.random.Generator, breaks: str | None = None) -> Scene:
        """Draw a scene to be told as one of GenEval's tasks.

        Args:
            tag: One of TAGS.
            rng: Draws everything.
            breaks: The kind of held-out combination it shows; None for nothing held out.

        Returns:
            A scene; for "position" its first two objects have a relation beyond doubt.
        """
        while True:
            objects, background = self._design(tag, rng)
            if not self.may_fit(objects, background, (breaks,)):
                continue
            scene = self.scattered(objects, background, rng)
            if tag == "position" and relation_between(*scene.objects) is None:
                continue
            if self.fits(scene, breaks):
                return scene

    def subject(self, shape: str, rng: np.random.Generator, *, held_out: bool) -> Scene:
        """Draw a marked subject, big in the middle of a grey picture.

        Args:
            shape: One of MARKED_SHAPES.
            rng: Draws the rest of its identity.
            held_out: Whether it is one that train never shows.
        """
        while True:
            mark = pick(MARKS, rng)
            colour, mark_colour = (pick(tuple(COLOURS), rng) for _ in range(2))
            item = SceneObject(shape, colour, 0.5, 0.5, SUBJECT_SIZE, mark, mark_colour)
            scene = Scene((item,), "grey")
            wanted = "subject" if held_out else None
            if not alike(colour, mark_colour) and self.fits(scene, wanted):
                return scene

    def elsewhere(self, subject: SceneObject, rng: np.random.Generator) -> Scene:
        """Show a subject smaller, at one of the eight outer places, on another background."""
        size = self.sized("big", rng)
        outer = [place for place in PLACES if place.name != "centre"]
        while True:
            background = pick([name for name in BACKGROUNDS if name != "grey"], rng)
            place = outer[int(rng.integers(len(outer)))]
            item = _resized(subject, size)
            x, y = anchor(place, item.reach)
            scene = Scene((replace(item, x=x, y=y),), background)
            if stands(scene) and contrasts(scene):
                return scene

    def subjects(self, first: SceneObject, second: SceneObject, rng: np.random.Generator) -> Scene:
        """Show two subjects in a relation beyond doubt, big if they fit, else small.

        Args:
            first: A subject.
            second: Another, of another shape.
            rng: Draws place and background.

        Returns:
            A scene with the first subject first.
        """
        shown = {self.held_out.holds_subject(item.identity) for item in (first, second)}
        attempt = 0
        while True:
            size = self.sized("big" if attempt < 8 else "small", rng)
            pair = [_resized(first, size), _resized(second, size)]
            scene = self.scattered(pair, pick(tuple(BACKGROUNDS), rng), rng)
            attempt += 1
            clear = relation_between(*scene.objects) is not None
            if clear and self.fits(scene, "subject" if True in shown else None):
                return scene

    def _design(self, tag: str, rng: np.random.Generator) -> tuple[list[SceneObject], str]:
        """Draw the objects of a task, not yet anywhere, and a background."""
        background = pick(tuple(BACKGROUNDS), rng)
        number = {"two_object": 2, "position": 2, "color_attr": 2, "three_object": 3, "size": 2}
        count = COUNTS[int(rng.integers(len(COUNTS)))] if tag == "counting" else number.get(tag, 1)
        sizes = [pick(tuple(SIZES), rng) for _ in range(count)]
        if tag in ("counting", "three_object"):
            sizes = ["small" if count > 2 else sizes[0]] * count
        elif tag == "size":
            sizes = ["big", "small"] if rng.random() < 0.5 else ["small", "big"]
        shapes = [str(shape) for shape in rng.permutation(self.shapes)[:count]]
        colours = [str(colour) for colour in rng.permutation(list(COLOURS))[:count]]
        if tag == "counting":
            shapes, colours = shapes[:1] * count, colours[:1] * count
        objects = [
            SceneObject(shape, colour, 0.5, 0.5, self.sized(size, rng))
            for shape, colour, size in zip(shapes, colours, sizes, strict=True)
        ]
        return objects, background

    def scattered(
        self, objects: Sequence[SceneObject], background: str, rng: np.random.Generator
    ) -> Scene:
        """Put objects somewhere, apart; they may still fail `fits`.

        Args:
            objects: Objects whose places do not count.
            background: One of BACKGROUNDS.
            rng: Draws the places.
        """
        put = scatter if self.free else settle
        points = put([item.shape for item in objects], [item.size for item in objects], rng)
        moved = [replace(o, x=x, y=y) for o, (x, y) in zip(objects, points, strict=True)]
        return Scene(tuple(moved), background)

    def sized(self, word: str, rng: np.random.Generator) -> float:
        """Return the size of a word of SIZES; up to 5 % larger or smaller where placing is free."""
        return SIZES[word] * (1 + SIZE_JITTER * (2 * float(rng.random()) - 1) * self.free)

    def may_fit(
        self, objects: Sequence[SceneObject], background: str, breaks: tuple[str | None, ...]
    ) -> bool:
        """Tell whether objects that are nowhere yet (so in no relation) can become a scene.

        Only spares placing those that cannot.

        Args:
            objects: Objects whose places do not count.
            background: One of BACKGROUNDS.
            breaks: The kinds of held-out combinations of which the scene may show one; None
                stands for nothing held out.
        """
        scene = Scene(tuple(objects), background)
        found = self.held_out.violations(scene)
        wanted = ([kind] if kind and kind != "relation" else [] for kind in breaks)
        return contrasts(scene) and found in wanted

    def fits(self, scene: Scene, breaks: str | None) -> bool:
        """Tell whether a scene is clear to see and shows just one kind of what is held out.

        Args:
            scene: Any scene.
            breaks: That kind; None for nothing held out.
        """
        if not (contrasts(scene) and stands(scene)):
            return False
        return self.held_out.violations(scene) == ([breaks] if breaks else [])


def alike(a: str, b: str) -> bool:
    """Tell whether two colours are equal or near each other."""
    return a == b or (a, b) in ALIKE or (b, a) in ALIKE


def contrasts(scene: Scene) -> bool:
    """Tell whether every object is seen on its background."""
    return all((item.colour, scene.background) not in UNCLEAR for item in scene.objects)


def _resized(item: SceneObject, size: float) -> SceneObject:
    return replace(item, size=size)


def pick(options: Sequence[_T], rng: np.random.Generator) -> _T:
    """Draw one of several things."""
    return options[int(rng.integers(len(options)))]
