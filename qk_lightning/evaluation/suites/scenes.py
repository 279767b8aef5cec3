"""Suite `scenes`: GenEval's tasks in small, scored exactly (never to be called GenEval)."""

from __future__ import annotations

from collections.abc import Sequence

from qk_lightning.evaluation.item import Item, Metric
from qk_lightning.evaluation.suite import Suite


class Scenes(Suite):
    """Captions of scenes: objects, colours, counts, positions, sizes, backgrounds.

    `overall` is the mean of the tags' shares right, as GenEval averages its tasks; right means
    that everything asked for is there and nothing else. `geneval_rule` is the same by GenEval's
    own lenient rule.
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
        found += [Metric(tag, "verdict", tags=(tag,)) for tag in tags]
        if "color_attr" in tags:
            found += [Metric(part, part, tags=("color_attr",)) for part in ("swapped", "leaked")]
        return found
