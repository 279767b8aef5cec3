"""Suite `scenes_edit`: edits that leave the rest alone, and subjects that stay who they are."""

from __future__ import annotations

from collections.abc import Sequence

from qk_lightning.evaluation.item import Item, Metric
from qk_lightning.evaluation.suite import Suite

EDITS = ("editing",)
SUBJECTS = ("customised", "multi_subject")


class ScenesEdit(Suite):
    """Instructions on a scene, and one or two subjects in a new scene.

    `success`: what was asked for is there; `preserve`: the other objects are as they were and
    nothing came; `joint`: both, on the right background.
    `rank1` and `mrr`: the drawn subject is told from a gallery of others.
    """

    name = "scenes_edit"
    parts = {"scenes": (*EDITS, *SUBJECTS)}

    def metrics(self, items: Sequence[Item]) -> list[Metric]:
        """List the axes of edits, `joint` an operation, and identity."""
        tasks = {item.task for item in items}
        found = []
        if "editing" in tasks:
            for part in ("success", "preserve", "joint"):
                found.append(Metric(part, part, EDITS))
            found.append(Metric("untouched_psnr", "untouched_psnr", EDITS, is_share=False))
            found.append(Metric("over_edit", "over_edit", EDITS, worst=1.0))
            operations = dict.fromkeys(item.tag for item in items if item.task in EDITS)
            found += [Metric(tag, "joint", EDITS, (tag,)) for tag in operations]
        for part in ("rank1", "mrr"):
            found += [Metric(part, part, SUBJECTS)] if tasks & set(SUBJECTS) else []
        found += [Metric(task, "verdict", (task,)) for task in SUBJECTS if task in tasks]
        return found
