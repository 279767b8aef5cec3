"""Which scene is in every row of the scenes world, and what of it is held out of train.

Pure functions of (seed, item), drawn when first asked for, or read from where they were kept:
drawing all takes seconds, which a short run would feel. Nothing here draws pixels.
Rows: 6 an item, train items first.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np

from qk_lightning.data.disk_cache import build_once
from qk_lightning.data.sample import Split
from qk_lightning.data.worlds.drawn import next_item, seeded
from qk_lightning.data.worlds.scene_draw import TAGS, SceneDrawer
from qk_lightning.data.worlds.scene_edits import OPS, Edit, draw_edit
from qk_lightning.data.worlds.scene_graph import MARKED_SHAPES, Scene, SceneObject
from qk_lightning.data.worlds.scene_split import HeldOut

SCENE, SOURCE, EDITED, SUBJECT, ELSEWHERE, SUBJECTS = range(6)
NUM_KINDS = 6
# What a val item's scene shows that train never does, where its tag can ask for it.
BREAKS = {
    "colors": "pair",
    "counting": "count",
    "position": "relation",
    "color_attr": "pair",
    "three_object": "pair",
    "background": "pair",
}
_SHARES = np.array(list(TAGS.values())) / sum(TAGS.values())


class Items:
    """The scenes of every item.

    Args:
        shapes: The shapes in use.
        num_train: Train items.
        num_val: Val items, numbered after them.
        seed: Draws everything.
        free: See `SceneDrawer`.
    """

    def __init__(
        self, shapes: Sequence[str], num_train: int, num_val: int, seed: int, free: bool = False
    ) -> None:
        self.num_train = num_train
        self.num_val = num_val
        self.seed = seed
        self.held_out = HeldOut(shapes)
        self.drawer = SceneDrawer(shapes, self.held_out, free)
        self._drawn: dict[tuple[str, int], Any] = {}
        self._kept: dict[str, list[Any]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Leave what was drawn behind: another process draws or reads what it needs."""
        return {**self.__dict__, "_drawn": {}, "_kept": {}}

    def prepare(self, path: Path) -> None:
        """Draw every item once, to a file; a second process waits for the first.

        Args:
            path: A JSON file whose name tells the world.
        """
        if self._kept:
            return

        def is_whole(file: Path) -> bool:
            """Read the file; tell whether it has all items."""
            try:
                kept = json.loads(file.read_text(encoding="utf-8"))
                whole = all(len(kept[what]) == self.num_train + self.num_val for what in _DRAWN)
            except (OSError, ValueError, KeyError, TypeError):
                return False
            if whole:
                self._kept = kept
            return whole

        build_once(path, is_whole, self._write)
        if not self._kept and not is_whole(path):
            raise OSError(f"{path} was written and cannot be read")

    def _write(self, path: Path) -> None:
        items = range(self.num_train + self.num_val)
        packed = {what: [_packed(self._once(what, item)) for item in items] for what in _DRAWN}
        path.write_text(json.dumps(packed, separators=(",", ":")), encoding="utf-8")

    def of(self, split: Split) -> tuple[int, int]:
        """Return the first item of a split and how many there are."""
        return (0, self.num_train) if split == "train" else (self.num_train, self.num_val)

    def split_of(self, item: int) -> Split:
        """Return the split of an item."""
        return "train" if item < self.num_train else "val"

    def following(self, item: int) -> int:
        """Return the item whose subject joins this one's: the next one of its split."""
        return next_item(item, *self.of(self.split_of(item)))

    def turn(self, item: int, period: int) -> int:
        """Return what is held out of a val item: 0-2 nothing, 3 a combination, 4 a phrasing.

        Args:
            item: Any item; of train nothing is held out.
            period: How many items in a row have the same turn, so that it does not go with
                their tag or operation.
        """
        return (item - self.num_train) // period % 5 if item >= self.num_train else 0

    def tag_of(self, item: int) -> str:
        """Return as which of TAGS an item's scene is told: evenly in val, by weight in train."""
        if item >= self.num_train:
            return tuple(TAGS)[(item - self.num_train) % len(TAGS)]
        return self._once("tag", item)

    def scene_of(self, item: int, kind: int) -> Scene:
        """Return what one row of an item shows."""
        if kind in (SOURCE, EDITED):
            edit = self.edit_of(item)
            return edit.source if kind == SOURCE else edit.target
        names = {SCENE: "scene", SUBJECT: "subject", ELSEWHERE: "elsewhere", SUBJECTS: "subjects"}
        return self._once(names[kind], item)

    def edit_of(self, item: int) -> Edit:
        """Return the change between an item's source and edited picture."""
        return self._once("edit", item)

    def _once(self, what: str, item: int) -> Any:  # noqa: ANN401 - a Scene, an Edit or a tag
        key = (what, item)
        if key in self._drawn:
            return self._drawn[key]
        if what in self._kept:
            self._drawn[key] = _unpacked(self._kept[what][item])
        else:
            split = self.split_of(item)
            rng = seeded(self.seed, what, split, item)
            self._drawn[key] = getattr(self, f"_draw_{what}")(item, rng)
        return self._drawn[key]

    def _draw_tag(self, item: int, rng: np.random.Generator) -> str:
        return str(rng.choice(list(TAGS), p=_SHARES))

    def _draw_scene(self, item: int, rng: np.random.Generator) -> Scene:
        tag = self.tag_of(item)
        breaks = BREAKS.get(tag) if self.turn(item, len(TAGS)) == 3 else None
        return self.drawer.scene(tag, rng, breaks)

    def _draw_edit(self, item: int, rng: np.random.Generator) -> Edit:
        op = OPS[(item - self.of(self.split_of(item))[0]) % len(OPS)]
        breaks = "pair" if self.turn(item, len(OPS)) == 3 else None
        return draw_edit(self.drawer, op, rng, breaks)

    def _draw_subject(self, item: int, rng: np.random.Generator) -> Scene:
        first, count = self.of(self.split_of(item))
        # Neighbours have other shapes, also the last and the first.
        wraps = item - first == count - 1 and count % 3 == 1
        shape = MARKED_SHAPES[1 if wraps else (item - first) % 3]
        return self.drawer.subject(shape, rng, held_out=self.turn(item, 1) in (2, 3))

    def _draw_elsewhere(self, item: int, rng: np.random.Generator) -> Scene:
        (subject,) = self.scene_of(item, SUBJECT).objects
        return self.drawer.elsewhere(subject, rng)

    def _draw_subjects(self, item: int, rng: np.random.Generator) -> Scene:
        first, second = (self.scene_of(i, SUBJECT).objects[0] for i in (item, self.following(item)))
        return self.drawer.subjects(first, second, rng)


_DRAWN = ("scene", "edit", "subject", "elsewhere", "subjects")


def _packed(drawn: Scene | Edit) -> list[Any]:
    """Turn what was drawn into JSON values, as short as they go."""
    if isinstance(drawn, Edit):
        return [drawn.op, _packed(drawn.source), _packed(drawn.target), drawn.objects]
    return [drawn.background, [astuple(item) for item in drawn.objects]]


def _unpacked(values: list[Any]) -> Scene | Edit:
    """Read what `_packed` wrote."""
    if len(values) == 4:
        op, source, target, objects = values
        return Edit(op, _scene(source), _scene(target), tuple(objects))
    return _scene(values)


def _scene(values: list[Any]) -> Scene:
    background, objects = values
    return Scene(tuple(SceneObject(*item) for item in objects), background)
