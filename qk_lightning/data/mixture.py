"""The batch order: which sample is trained on when, a pure function of (seed, samples seen).

A step has `global_batch_size` samples in `groups_per_step` groups. A group has one layout (task,
world of a mixture, roles), drawn by weight from (seed, step, group). Ranks take contiguous parts
of each group and micro-batches cut those parts, so neither changes what a step trains on. Within
a layout all items come once, in an order drawn from (seed, layout, epoch), before any comes again.
Shapes: P layouts, G groups a step.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from qk_lightning.config.errors import ConfigError, Problem, did_you_mean
from qk_lightning.data.hashing import hash_uniform, mix, permutation
from qk_lightning.data.sample import TASKS, Roles, World

_CHUNK = 1 << 20  # steps counted at once when an order starts late


class Draw(NamedTuple):
    """One sample to be read: its task, its index there, its place in the whole run."""

    task: str
    index: int
    global_index: int


@dataclass(frozen=True)
class Layout:
    """The training samples of one task that share their roles.

    Args:
        task: One of TASKS.
        roles: The roles of the input images.
        start: Index of the first of these samples within the task.
        count: How many there are.
        share: Probability that a group has this layout.
        part: Label of the world it is of, in a mixture of worlds.
    """

    task: str
    roles: Roles
    start: int
    count: int
    share: float
    part: str = ""

    @property
    def key(self) -> int:
        """A number that stands for part, task and roles in draws, the same in every process."""
        of_part = (self.part,) if self.part else ()
        name = "/".join((*of_part, self.task, *self.roles))
        return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")


def check_batch_sizes(
    global_batch_size: int,
    groups_per_step: int = 1,
    micro_batch_size: int | None = None,
    world_size: int = 1,
) -> list[Problem]:
    """Finds what does not divide: global batch into groups, groups into ranks and micro-batches.

    Args:
        global_batch_size: Samples an optimiser step.
        groups_per_step: Groups of one layout a step.
        micro_batch_size: Samples a rank and forward pass; None = a rank's part of a group.
        world_size: Number of ranks.

    Returns:
        The problems found; empty if all divides.
    """
    sizes = {
        "trainer.global_batch_size": global_batch_size,
        "data.groups_per_step": groups_per_step,
        "trainer.micro_batch_size": 1 if micro_batch_size is None else micro_batch_size,
    }
    problems = [Problem(key, n, "a whole number from 1", "") for key, n in sizes.items() if n < 1]
    if problems:
        return problems
    if global_batch_size % (groups_per_step * world_size):
        unit = groups_per_step * world_size
        multiple = max(unit, global_batch_size // unit * unit)
        expected = (
            f"a multiple of data.groups_per_step x ranks = {groups_per_step} x {world_size}: every "
            "rank takes an equal part of every group"
        )
        fix = f"trainer.global_batch_size={multiple}"
        if world_size == 1:
            fix += f", or data.groups_per_step={math.gcd(global_batch_size, groups_per_step)}"
        return [Problem("trainer.global_batch_size", global_batch_size, expected, fix)]
    part = global_batch_size // (groups_per_step * world_size)
    if micro_batch_size is not None and part % micro_batch_size:
        expected = (
            f"a divisor of {part}, a rank's part of a group (global_batch_size {global_batch_size}"
            f" / groups_per_step {groups_per_step} / {world_size} ranks)"
        )
        fix = f"trainer.micro_batch_size={math.gcd(part, micro_batch_size)}"
        return [Problem("trainer.micro_batch_size", micro_batch_size, expected, fix)]
    return []


def check_tasks(world: World, tasks: Mapping[str, float]) -> list[Problem]:
    """Finds unknown tasks, tasks that the world has no training samples of, and bad weights.

    Args:
        world: What there is to train on.
        tasks: Weight of each task; 0 leaves a task out.

    Returns:
        The problems found.
    """
    problems = []
    offered = [task for task in world.tasks if world.num_samples(task, "train")]
    for task, weight in tasks.items():
        key = f"data.tasks.{task}"
        if task not in TASKS:
            problems.append(Problem(key, weight, "a known task", did_you_mean(task, TASKS)))
        elif not (math.isfinite(weight) and weight >= 0):
            problems.append(Problem(key, weight, "a weight from 0", "0 leaves the task out"))
        elif weight and task not in offered:
            fix = f"data.tasks.{task}=0, or choose among: {', '.join(offered) or 'none'}"
            expected = f"a task that the world {type(world).__name__} has training samples of"
            problems.append(Problem(key, weight, expected, fix))
    if not problems and not sum(tasks.values()):
        expected = "at least one weight above 0"
        fix = f"for example data.tasks.{(offered or TASKS)[0]}=1"
        problems.append(Problem("data.tasks", dict(tasks), expected, fix))
    return problems


class BatchOrder:
    """Endless micro-batches of one rank, each a list of `Draw`s of one layout.

    Args:
        world: What there is to train on.
        tasks: Weight of each task (any scale; 0 leaves it out). A task's layouts share its
            weight in proportion to their numbers of samples; the parts of a mixture of worlds
            that offer it share it by their weights.
        seed: Decides layouts and item orders.
        global_batch_size: Samples an optimiser step, over all ranks.
        groups_per_step: Groups of one layout a step.
        micro_batch_size: Samples a list; None = this rank's part of a group.
        rank: This process, from 0.
        world_size: Number of ranks.
        start_step: The optimiser step to begin with.

    Raises:
        ConfigError: If sizes do not divide or a task cannot be drawn.
    """

    def __init__(
        self,
        world: World,
        tasks: Mapping[str, float],
        seed: int,
        global_batch_size: int,
        groups_per_step: int = 1,
        micro_batch_size: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        start_step: int = 0,
    ) -> None:
        problems = check_tasks(world, tasks)
        problems += check_batch_sizes(
            global_batch_size, groups_per_step, micro_batch_size, world_size
        )
        if problems:
            raise ConfigError(problems)
        self.layouts = _layouts(world, tasks)
        self.seed = seed
        self.global_batch_size = global_batch_size
        self.groups_per_step = groups_per_step
        self.group_size = global_batch_size // groups_per_step
        self.part_size = self.group_size // world_size
        self.micro_batch_size = micro_batch_size or self.part_size
        self.rank = rank
        self.start_step = start_step
        self._epochs: dict[Layout, tuple[int, np.ndarray]] = {}

    @property
    def micro_batches_per_step(self) -> int:
        """Lists that one rank gets a step; the trainer's `accumulate_grad_batches`."""
        return self.groups_per_step * self.part_size // self.micro_batch_size

    def __iter__(self) -> Iterator[list[Draw]]:
        """Yields this rank's micro-batches from `start_step` on, without end."""
        groups_seen = self._groups_before(self.start_step)
        for step in itertools.count(self.start_step):
            for group, number in enumerate(self._drawn(step, step + 1)):
                part = self._part(step, group, self.layouts[number], int(groups_seen[number]))
                for cut in range(0, self.part_size, self.micro_batch_size):
                    yield part[cut : cut + self.micro_batch_size]
                groups_seen[number] += 1

    def _part(self, step: int, group: int, layout: Layout, groups_seen: int) -> list[Draw]:
        # The n-th sample ever drawn of a layout is number n % count in epoch n // count.
        in_group = self.rank * self.part_size + np.arange(self.part_size)
        epochs, places = np.divmod(groups_seen * self.group_size + in_group, layout.count)
        items = np.empty_like(places)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            items[here] = layout.start + self._epoch(layout, epoch)[places[here]]
        first = step * self.global_batch_size + group * self.group_size
        pairs = zip(items.tolist(), (first + in_group).tolist(), strict=True)
        return [Draw(layout.task, item, place) for item, place in pairs]

    def _epoch(self, layout: Layout, epoch: int) -> np.ndarray:
        """The order of a layout's items in an epoch, [count]; the last one asked for is kept."""
        if self._epochs.get(layout, (-1,))[0] != epoch:
            self._epochs[layout] = epoch, permutation(layout.count, self.seed, layout.key, epoch)
        return self._epochs[layout][1]

    def _drawn(self, start: int, stop: int) -> np.ndarray:
        """Layout numbers of all groups of steps start .. stop - 1: [(stop - start) * G].

        Each is a function of (seed, step, group) alone.
        """
        places = np.arange(start * self.groups_per_step, stop * self.groups_per_step)
        step, group = np.divmod(places, self.groups_per_step)
        draws = hash_uniform(mix(self.seed, step, group))
        edges = np.cumsum([layout.share for layout in self.layouts])
        return np.searchsorted(edges[:-1], draws, side="right")

    def _groups_before(self, step: int) -> np.ndarray:
        """How many groups of each layout the steps before `step` had: [P]."""
        counts = np.zeros(len(self.layouts), dtype=np.int64)
        for start in range(0, step, _CHUNK):
            drawn = self._drawn(start, min(start + _CHUNK, step))
            counts += np.bincount(drawn, minlength=len(self.layouts))
        return counts


def _layouts(world: World, tasks: Mapping[str, float]) -> list[Layout]:
    # In the order of TASKS, so that the order of keys in a YAML file means nothing.
    total = sum(tasks.values())
    layouts = []
    for task in (task for task in TASKS if tasks.get(task, 0) > 0):
        parts = [part for part in world.parts() if part.world.num_samples(task, "train")]
        weight, start = sum(part.weight for part in parts), 0
        for part in parts:
            samples = part.world.num_samples(task, "train")
            for roles, count in part.world.layouts(task, "train"):
                share = tasks[task] / total * (part.weight / weight) * count / samples
                layouts.append(Layout(task, tuple(roles), start, count, share, part.label))
                start += count
    return layouts
