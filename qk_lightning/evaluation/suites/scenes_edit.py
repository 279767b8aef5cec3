"""Suite `scenes_edit`: edits that leave the rest alone, and subjects that stay who they are."""

from __future__ import annotations

from collections.abc import Sequence

from qk_lightning.evaluation.item import Item, Metric
from qk_lightning.evaluation.suite import Suite

EDITS = ("editing",)
SUBJECTS = ("customised", "multi_subject")


class ScenesEdit(Suite):
    """Instructions on a scene, and one or two subjects in a new scene.

    `success`: what was asked for is there; `preserve`: all else is as it was; `joint`: both.
    `rank1` and `mrr`: the drawn subject is told from a gallery of others.
    """

    name = "scenes_edit"
    parts = {"scenes": (*EDITS, *SUBJECTS)}

    def metrics(self, items: Sequence[Item]) -> list[Metric]:
        """List the axes of edits, `joint` an operation, and identity."""
        tasks = {item.task for item in items}
        found = []
        if "editing" in tasks:
            for part in ("success", "preserve", "joint", "untouched_psnr", "over_edit"):
                found.append(Metric(part, part, EDITS))
            operations = dict.fromkeys(item.tag for item in items if item.task in EDITS)
            found += [Metric(tag, "joint", EDITS, (tag,)) for tag in operations]
        for part in ("rank1", "mrr"):
            found += [Metric(part, part, SUBJECTS)] if tasks & set(SUBJECTS) else []
        found += [Metric(task, "verdict", (task,)) for task in SUBJECTS if task in tasks]
        return found
