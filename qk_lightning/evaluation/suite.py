"""What a suite is: items of some worlds' val split, readers' verdicts on pictures, named metrics.

Everything that all suites share; what is theirs alone stands in suites/<name>.py. Drawing is in
draw.py, scoring in score.py, means with intervals in aggregate.py.
Shapes: B pictures of 3 x H x W, uint8.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from qk_lightning.config.errors import ConfigError, Problem, did_you_mean
from qk_lightning.data.collate import spread
from qk_lightning.data.sample import World
from qk_lightning.evaluation.verdict import Verdict

ALL = "all"
SEEN = "seen"
# Every val item shows people or subjects that training does not, so that says nothing of an item.
ALWAYS_HELD_OUT = ("identity",)


@dataclass(frozen=True)
class Item:
    """One thing to draw.

    Args:
        id: unique in the suite; a file name.
        suite: the suite.
        world: label of the world that it comes from.
        task: one of TASKS.
        tag: what kind of prompt or edit it is.
        prompt: what is asked for.
        seed: of the noise; sample k of an item is drawn with seed + k.
        index: position in the world's val split of the task; with the seed the key of the noise.
        facts: what should be seen.
        split: `seen`, or which kinds of concept were held out from training.
        roles: roles of the input pictures.
        images: rows of the input pictures in the world's table.
        target: row of the picture that would be right; -1 where the world has none.
        group: what resampling keeps together; empty = items of one prompt where only the prompt
            is given, else the item itself.
    """

    id: str
    suite: str
    world: str
    task: str
    tag: str
    prompt: str
    seed: int
    index: int
    facts: Mapping[str, Any]
    split: str = SEEN
    roles: tuple[str, ...] = ()
    images: tuple[int, ...] = ()
    target: int = -1
    group: str = ""

    @property
    def cluster(self) -> str:
        """What resampling keeps together."""
        return self.group or (self.id if self.images else f"{self.world}/{self.prompt}")

    def input_file(self, place: int) -> str:
        """Return where an exported prompt set keeps an input picture."""
        return f"inputs/{self.id}_{place}.png"

    def to_row(self) -> dict[str, Any]:
        """Return the item as a line of prompts.jsonl."""
        inputs = [
            {"role": role, "file": self.input_file(place)} for place, role in enumerate(self.roles)
        ]
        return {
            "id": self.id,
            "suite": self.suite,
            "world": self.world,
            "task": self.task,
            "tag": self.tag,
            "prompt": self.prompt,
            "seed": self.seed,
            "index": self.index,
            "inputs": inputs,
            "facts": dict(self.facts),
            "split": self.split,
        }


@dataclass(frozen=True)
class Metric:
    """One number of a suite: a mean of one column over some of its items.

    Args:
        name: `eval/<suite>/<name>` is its key.
        column: `verdict`, `score`, or the name of a part of the verdicts.
        tasks: the tasks that count; empty = all.
        tags: the tags that count; empty = all.
        worlds: the worlds that count; empty = all.
        splits: the splits that count; empty = all.
        mean_of: `items`, or the groups whose means are averaged with equal weight (`tag`,
            `world`), as GenEval does with its tasks.
    """

    name: str
    column: str
    tasks: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    worlds: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()
    mean_of: str = "items"

    def counts(self, row: Mapping[str, Any]) -> bool:
        """Tell whether a row of results belongs to it.

        Args:
            row: with task, tag, world and split.
        """
        chosen = (
            ("task", self.tasks),
            ("tag", self.tags),
            ("world", self.worlds),
            ("split", self.splits),
        )
        return all(not wanted or row[key] in wanted for key, wanted in chosen)


@dataclass(frozen=True)
class Pictures:
    """Pictures of some items, to be scored.

    Args:
        items: B items of one world and task.
        images: [B, 3, H, W] uint8.
        sources: [B, 3, H, W] uint8, the first input picture; None where there is none.
    """

    items: Sequence[Item]
    images: np.ndarray
    sources: np.ndarray | None = field(default=None)


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
        count: int | None = None,
        seed: int = 0,
        tasks: Sequence[str] | None = None,
    ) -> list[Item]:
        """List what is drawn: the first items of each world's val split.

        Args:
            worlds: the worlds by kind, prepared.
            count: the most items of one world and task; None = all.
            seed: of the noise.
            tasks: tasks that count; None = all.
        """
        found = []
        for kind, task in self.offers(worlds, tasks):
            world = worlds[kind]
            limit = world.num_samples(task, "val") if count is None else count
            for indices in spread(world, task, "val", limit):
                found += [self.item(kind, world, task, index, seed) for index in indices]
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

        Args:
            world: their world.
            pictures: the pictures.
        """
        from qk_lightning.evaluation.readers import reader_for

        reader = reader_for(world)
        facts = [item.facts for item in pictures.items]
        return reader.verdicts(pictures.images, facts, pictures.sources)

    def scorer(self, world: World) -> str:
        """Name the reader and its version.

        Args:
            world: whose pictures are read.
        """
        from qk_lightning.evaluation.readers import reader_for

        reader = reader_for(world)
        return f"{type(reader).__name__} {reader.version}"

    @abstractmethod
    def metrics(self, items: Sequence[Item]) -> list[Metric]:
        """List the numbers that come of some items.

        Args:
            items: what was planned.
        """


def split_of(facts: Mapping[str, Any]) -> str:
    """Name what was held out from training in an item.

    Args:
        facts: the sample's; `held_out` maps kinds of concept to whether the item has one.
    """
    held_out = facts.get("held_out") or {}
    if not isinstance(held_out, Mapping):
        return "pair" if held_out else SEEN
    kinds = [kind for kind, is_new in held_out.items() if is_new and kind not in ALWAYS_HELD_OUT]
    return "+".join(kinds) or SEEN


def suite_names() -> list[str]:
    """List the suites, by their files."""
    folder = Path(__file__).parent / "suites"
    return sorted(file.stem for file in folder.glob("*.py") if not file.stem.startswith("_"))


def open_suite(name: str) -> Suite:
    """Make a suite.

    Args:
        name: its file in suites/.

    Raises:
        ConfigError: there is no such suite.
    """
    names = suite_names()
    if name not in names:
        fix = did_you_mean(name, [*names, ALL])
        raise ConfigError(Problem("suite", name, "a suite", fix))
    module = importlib.import_module(f"qk_lightning.evaluation.suites.{name}")
    wanted = name.replace("_", "")
    found = next(value for key, value in vars(module).items() if key.lower() == wanted)
    return found()


def worlds_of(world: World) -> dict[str, World]:
    """Return the worlds that a world holds, by kind: itself, or those of a mixture.

    Args:
        world: any world.
    """
    found: dict[str, World] = {}
    for part in world.parts():
        # Of two worlds of a kind, the first is scored.
        found.setdefault(type(part.world).__name__.lower(), part.world)
    return found
