"""What of the scenes world train never shows, and how a scene is found to show it.

Pure functions of (shapes, seed). Not here: which val item shows which (scenes.py).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, permutations
from typing import Any

import numpy as np

from qk_lightning.data.worlds.scene_graph import COLOURS, Scene
from qk_lightning.data.worlds.scene_places import shown_relations

KINDS = ("pair", "count", "relation", "phrasing", "subject")
COUNTS = (2, 3, 4)
PAIR_SHARE, RELATION_SHARE, SUBJECT_SHARE = 0.2, 0.15, 0.2
_OPPOSITE = {"left of": "right of", "above": "below"}
Identity = tuple[str, str, str | None, str | None]


class HeldOut:
    """The combinations that no training sample shows or tells.

    Args:
        shapes: The world's shapes.
        seed: Draws the combinations. Every world has the same, whatever its own seed, so that
            weights that were trained in one have not seen what another holds out.

    Attributes:
        pairs: (shape, colour), a fifth of them; every shape and every colour is seen otherwise.
            Marks count as objects.
        counts: (number, shape): a picture with exactly so many objects of that shape.
        relations: (relation, shape A, shape B), each with its mirror image (B, A).
    """

    def __init__(self, shapes: Sequence[str], seed: int = 0) -> None:
        self.seed = seed
        rng = np.random.Generator(np.random.Philox(key=[seed, 2**62]))
        self.pairs = _draw_pairs(shapes, rng)
        order = [str(shape) for shape in rng.permutation(shapes)]
        self.counts = frozenset(zip(COUNTS, order, strict=False))
        self.relations = _draw_relations(shapes, rng)

    def holds_subject(self, identity: Identity) -> bool:
        """Tell whether a marked subject is one of the fifth that only val shows."""
        digest = hashlib.sha256(f"{self.seed}/{identity}".encode()).digest()
        return int.from_bytes(digest[:4], "little") < SUBJECT_SHARE * 2**32

    def violations(self, shown: Scene | Mapping[str, Any]) -> list[str]:
        """Name what a scene or a sample shows that train must not.

        Args:
            shown: A scene, or a sample's facts (target and source are looked at, and whether the
                phrasing is a held-out one).

        Returns:
            A part of KINDS, in that order.
        """
        if isinstance(shown, Scene):
            found = set(self._found(shown))
        else:
            scenes = [Scene.from_dict(shown[key]) for key in _SCENES if key in shown]
            found = {kind for scene in scenes for kind in self._found(scene)}
            if shown.get("held_out", {}).get("phrasing"):
                found.add("phrasing")
        return [kind for kind in KINDS if kind in found]

    def _found(self, scene: Scene) -> Iterator[str]:
        for item in scene.objects:
            if (item.shape, item.colour) in self.pairs or (
                item.mark,
                item.mark_colour,
            ) in self.pairs:
                yield "pair"
            if item.mark is not None and self.holds_subject(item.identity):
                yield "subject"
        counts = Counter(item.shape for item in scene.objects)
        if any((number, shape) in self.counts for shape, number in counts.items()):
            yield "count"
        for a, b in permutations(scene.objects, 2):
            if any((r, a.shape, b.shape) in self.relations for r in shown_relations(a, b)):
                yield "relation"


_SCENES = ("scene", "source_scene")


def _draw_pairs(shapes: Sequence[str], rng: np.random.Generator) -> frozenset[tuple[str, str]]:
    """Give each shape an equal number of colours, going round the colours."""
    colours = [str(colour) for colour in rng.permutation(list(COLOURS))]
    each = round(PAIR_SHARE * len(colours))
    return frozenset(
        (shape, colours[(each * k + turn) % len(colours)])
        for k, shape in enumerate(shapes)
        for turn in range(each)
    )


def _draw_relations(
    shapes: Sequence[str], rng: np.random.Generator
) -> frozenset[tuple[str, str, str]]:
    """Hold out some ordered pairs of shapes for each axis, never a pair in both orders."""
    pairs = list(combinations(shapes, 2))
    chosen = set()
    for relation, opposite in _OPPOSITE.items():
        for index in rng.permutation(len(pairs))[: round(2 * RELATION_SHARE * len(pairs))]:
            a, b = pairs[index] if rng.random() < 0.5 else pairs[index][::-1]
            chosen |= {(relation, a, b), (opposite, b, a)}
    return frozenset(chosen)
