"""Suite `scenes`: GenEval's tasks in small, scored exactly (never to be called GenEval)."""

from __future__ import annotations

from collections.abc import Sequence

from qk_lightning.evaluation.item import Item, Metric
from qk_lightning.evaluation.suite import Suite

COLOURED = ("colors", "color_attr", "three_object")  # their clauses name a colour each


class Scenes(Suite):
    """Captions of scenes: objects, colours, counts, positions, sizes, backgrounds.

    `overall` is the mean of the tags' shares right, as GenEval averages its tasks; right means
    that everything asked for is there and nothing else. `geneval_rule` is the same by GenEval's
    own lenient rule. `score` is the share of what was asked for, `shapes` and `colours` the share
    of those named that are there on whichever object: recognition without binding.
    """

    name = "scenes"
    parts = {"scenes": ("text_to_image",)}

    def metrics(self, items: Sequence[Item]) -> list[Metric]:
        """List the share right a tag and over tags, and how attributes were mixed up."""
        found = [
            Metric("overall", "verdict", mean_of="tag"),
            Metric("geneval_rule", "geneval_rule", mean_of="tag"),
        ]
        tags = list(dict.fromkeys(item.tag for item in items))
        found += [
            Metric("score", "score", mean_of="tag"),
            Metric("shapes", "shapes", mean_of="tag"),
        ]
        if coloured := tuple(tag for tag in COLOURED if tag in tags):
            found.append(Metric("colours", "colours", tags=coloured, mean_of="tag"))
        found += [Metric(tag, "verdict", tags=(tag,)) for tag in tags]
        if "color_attr" in tags:
            for part in ("swapped", "leaked"):  # lower is better
                found.append(Metric(part, part, tags=("color_attr",), worst=1.0))
        return found
