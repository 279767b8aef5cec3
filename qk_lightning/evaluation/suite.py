"""What a suite is: items of some worlds' val split, readers' verdicts on pictures, named metrics.

Everything that all suites share; what is theirs alone stands in suites/<name>.py. Drawing is in
draw.py, scoring in score.py, means with intervals in aggregate.py.
Shapes: B pictures of 3 x H x W, uint8.
"""

from __future__ import annotations

import importlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from hashlib import sha256
from itertools import zip_longest

import numpy as np

from qk_lightning.config.errors import ConfigError, Problem, did_you_mean
from qk_lightning.config.paths import list_suites
from qk_lightning.data.collate import spread
from qk_lightning.data.sample import World
from qk_lightning.evaluation.item import Item, Metric, Pictures, split_of
from qk_lightning.evaluation.untouched import untouched_parts
from qk_lightning.evaluation.verdict import Reader, Verdict

ALL = "all"
EDITS = ("transformation", "editing")
Count = int | Mapping[str, int] | None  # of one world and task
log = logging.getLogger("qk_lightning")


class Suite(ABC):
    """A fixed set of things to draw, and what is measured on the pictures.

    Attributes:
        name: the file's name.
        version: goes up when items or metrics change their meaning.
        parts: world kind -> the tasks that are drawn of it.
        controls: the controls that say something here (controls.py).
    """

    name: str
    version: int = 1
    parts: Mapping[str, tuple[str, ...]]
    controls: tuple[str, ...] = ("gt", "recon", "shuffled", "blank", "copy")

    def fits(self, worlds: Mapping[str, World], tasks: Sequence[str] | None = None) -> bool:
        """Tell whether there is anything to draw.

        Args:
            worlds: the worlds by kind.
            tasks: tasks that count; None = all.
        """
        return any(True for _ in self.offers(worlds, tasks))

    def offers(
        self, worlds: Mapping[str, World], tasks: Sequence[str] | None = None
    ) -> list[tuple[str, str]]:
        """List (world, task) that the suite draws.

        Args:
            worlds: the worlds by kind.
            tasks: tasks that count; None = all.
        """
        return [
            (kind, task)
            for kind, offered in self.parts.items()
            if kind in worlds
            for task in offered
            if (tasks is None or task in tasks) and worlds[kind].num_samples(task, "val")
        ]

    def items(
        self,
        worlds: Mapping[str, World],
        count: Count = None,
        seed: int = 0,
        tasks: Sequence[str] | None = None,
    ) -> list[Item]:
        """List what is drawn of each world's val split.

        Args:
            worlds: the worlds by kind, prepared.
            count: the most items of one world and task, or that by task; None = all. Few are
                chosen as `choose` does.
            seed: of the noise.
            tasks: tasks that count; None = all.
        """
        found = []
        for kind, task in self.offers(worlds, tasks):
            world, total = worlds[kind], worlds[kind].num_samples(task, "val")
            layouts = spread(world, task, "val", total)
            items = [self.item(kind, world, task, i, seed) for of in layouts for i in of]
            found += choose(items, limit_of(count, task))
        return found

    def item(self, kind: str, world: World, task: str, index: int, seed: int) -> Item:
        """Make the item of one val sample.

        Args:
            kind: the world's label.
            world: the world.
            task: the task.
            index: position in the task's val split.
            seed: of the noise.
        """
        sample = world.sample(task, "val", index)
        return Item(
            id=f"{kind}-{task}-{index:05d}",
            suite=self.name,
            world=kind,
            task=task,
            tag=str(sample.facts.get("tag", task)),
            prompt=sample.prompt,
            seed=seed,
            index=index,
            facts=sample.facts,
            split=split_of(sample.facts),
            roles=sample.roles,
            images=sample.images,
            target=sample.target,
        )

    def target(self, world: World, item: Item) -> np.ndarray:
        """Return the picture that would be right, [3, H, W] uint8.

        Args:
            world: the item's world.
            item: the item.
        """
        return world.image(item.target)

    def verdicts(self, world: World, pictures: Pictures) -> list[Verdict]:
        """Hold pictures of one world and task against their facts.

        To what the reader says of an edit, `untouched_psnr` and `over_edit` are added.

        Args:
            world: their world.
            pictures: the pictures.
        """
        reader = _reader(world)
        facts = [item.facts for item in pictures.items]
        read = reader.verdicts(pictures.images, facts, pictures.sources)
        if pictures.sources is None or pictures.items[0].task not in EDITS:
            return read
        samples = [world.sample(item.task, "val", item.index) for item in pictures.items]
        masks = [sample.edit_mask for sample in samples]
        kept = untouched_parts(pictures.images, pictures.sources, masks)
        return [
            replace(verdict, parts={**verdict.parts, **parts})
            for verdict, parts in zip(read, kept, strict=True)
        ]

    def scorer(self, world: World) -> str:
        """Name the reader and its version.

        Args:
            world: whose pictures are read.
        """
        reader = _reader(world)
        return f"{type(reader).__name__} {reader.version}"

    @abstractmethod
    def metrics(self, items: Sequence[Item]) -> list[Metric]:
        """List the numbers that come of some items.

        Args:
            items: what was planned.
        """


@lru_cache(maxsize=4)
def _reader(world: World) -> Reader:
    """Return the world's reader; made once, as readers keep what they drew."""
    from qk_lightning.evaluation.readers import reader_for

    reader = reader_for(world)
    assert reader is not None, f"no reader for {type(world).__name__}"
    return reader


def choose(items: Sequence[Item], count: int | None) -> list[Item]:
    """Choose some items, the tags in turn and in no order that what is held out could follow.

    Args:
        items: items of one world and task.
        count: the most; None = all. Those of a smaller count are among those of a larger one.

    Returns:
        The chosen ones, in their order.
    """
    if count is None or count >= len(items):
        return list(items)
    by_tag: dict[tuple[str, tuple[str, ...]], list[Item]] = {}
    for item in sorted(items, key=lambda one: sha256(one.id.encode()).digest()):
        by_tag.setdefault((item.tag, item.roles), []).append(item)
    turns = [item for turn in zip_longest(*by_tag.values()) for item in turn if item is not None]
    chosen = {item.id for item in turns[:count]}
    return [item for item in items if item.id in chosen]


def limit_of(count: Count, task: str) -> int | None:
    """Return the most items of one world and task; None = all.

    Args:
        count: one number for all tasks, or numbers by task.
        task: the task.
    """
    return count.get(task) if isinstance(count, Mapping) else count


def open_suite(name: str) -> Suite:
    """Make a suite.

    Args:
        name: its file in suites/.

    Raises:
        ConfigError: there is no such suite.
    """
    names = list_suites()
    if name not in names:
        fix = did_you_mean(name, [*names, ALL])
        raise ConfigError(Problem("suite", name, "a suite", fix))
    module = importlib.import_module(f"qk_lightning.evaluation.suites.{name}")
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, Suite)
        and value.__module__ == module.__name__
    ]
    assert len(found) == 1, f"{module.__file__}: expected one suite, found {found}"
    return found[0]()


def worlds_of(world: World) -> dict[str, World]:
    """Return the worlds that a world holds, by kind: itself, or those of a mixture.

    Args:
        world: any world.
    """
    found: dict[str, World] = {}
    for part in world.parts():
        kind = type(part.world).__name__.lower()
        if kind in found:
            log.warning("of two worlds of kind %s the first is scored, not %s", kind, part.label)
        found.setdefault(kind, part.world)
    return found
