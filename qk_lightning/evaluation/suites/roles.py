"""Suite `roles`: how much more of an input picture is kept where it is a source than a reference?

The same picture, prompt and noise, drawn once under each role: what differs is where the head
sees the input's low-level tokens. Without low-level tokens both pictures are the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from qk_lightning.data.collate import to_unit
from qk_lightning.data.sample import ROLES, World
from qk_lightning.evaluation.item import Item, Metric, Pictures
from qk_lightning.evaluation.suite import Count, Suite, choose, limit_of
from qk_lightning.evaluation.verdict import Verdict

SOURCE, REFERENCE = ROLES
TRAINED = "editing"  # the task that shows the head sources


class Roles(Suite):
    """Prompts that put a subject elsewhere, each with its picture as a source and as a reference.

    `source_psnr` and `reference_psnr`: the drawn picture against its input, in dB; `gap` their
    difference, with an interval over pairs. Nothing is called right: as a reference a picture
    should be drawn anew, as a source kept.
    """

    name = "roles"
    parts = {"avatars": ("customised",), "scenes": ("customised",)}
    controls = ("gt", "recon", "shuffled", "blank", "copy")

    def offers(
        self, worlds: Mapping[str, World], tasks: Sequence[str] | None = None
    ) -> list[tuple[str, str]]:
        """List (world, task); none where sources are not among the tasks."""
        if tasks is not None and TRAINED not in tasks:
            return []
        return super().offers(worlds, tasks)

    def items(
        self,
        worlds: Mapping[str, World],
        count: Count = None,
        seed: int = 0,
        tasks: Sequence[str] | None = None,
    ) -> list[Item]:
        """List the sources, then the same as references; with a `count`, as many in all."""
        found = []
        for kind, task in self.offers(worlds, tasks):
            world, limit = worlds[kind], limit_of(count, task)
            total = world.num_samples(task, "val")
            items = [self.item(kind, world, task, index, seed) for index in range(total)]
            chosen = choose(items, None if limit is None else max(1, limit // 2))
            found += [_as(role, item) for role in ROLES for item in chosen]
        return found

    def scorer(self, world: World) -> str:
        """Name the rule: there is no reader."""
        return "psnr 1"

    def verdicts(self, world: World, pictures: Pictures) -> list[Verdict]:
        """Measure each picture against its input."""
        from qk_lightning.systems.autoencoder import image_psnr

        assert pictures.sources is not None
        values = image_psnr(to_unit(pictures.images), to_unit(pictures.sources)).tolist()
        found = []
        for item, value in zip(pictures.items, values, strict=True):
            # The mean over both roles of these is the difference of the roles' means.
            sign = 2.0 if item.tag == SOURCE else -2.0
            found.append(Verdict(False, 0.0, "not judged", {"psnr": value, "gap": sign * value}))
        return found

    def metrics(self, items: Sequence[Item]) -> list[Metric]:
        """List PSNR in dB by role, and the gap between them."""
        by_role = [Metric(f"{role}_psnr", "psnr", tags=(role,), is_share=False) for role in ROLES]
        return [Metric("gap", "gap", is_share=False), *by_role]


def _as(role: str, item: Item) -> Item:
    return replace(item, id=f"{item.id}-{role}", tag=role, roles=(role,), group=item.id)
