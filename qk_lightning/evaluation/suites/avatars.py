"""Suite `avatars`: do people have the attributes that were asked for, and who are they?"""

from __future__ import annotations

from collections.abc import Sequence

from qk_lightning.evaluation.item import Item, Metric
from qk_lightning.evaluation.suite import Suite


class Avatars(Suite):
    """Captions, edits, the same person in another state, two people side by side.

    `attributes` is the alignment score: the share of attributes that pictures of captions show.
    """

    name = "avatars"
    parts = {"avatars": ("text_to_image", "editing", "customised", "multi_subject")}

    def metrics(self, items: Sequence[Item]) -> list[Metric]:
        """List shares of attributes a task; of edits, what changed and what was kept."""
        tasks = dict.fromkeys(item.task for item in items)
        found = []
        if "text_to_image" in tasks:
            found.append(Metric("attributes", "score", ("text_to_image",)))
            found.append(Metric("all_right", "verdict", ("text_to_image",)))
        found += [Metric(task, "score", (task,)) for task in tasks if task != "text_to_image"]
        if "editing" in tasks:
            found += [Metric(part, part, ("editing",)) for part in ("changed", "kept")]
            found.append(Metric("untouched_psnr", "untouched_psnr", ("editing",), is_share=False))
        if "customised" in tasks:
            found += [Metric(part, part, ("customised",)) for part in ("rank1", "mrr")]
        return found
