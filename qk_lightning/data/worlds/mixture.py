"""Several worlds as one: rows and samples one world after the other, batches of one world each.

    data.world: {name: mixture, worlds: {avatars: {weight: 1}, scenes: {weight: 2}}}
How often each is trained on is decided in data/mixture.py, by `World.parts`. Worlds come in the
order of their labels, so that the order of keys in a YAML file means nothing.
"""

from __future__ import annotations

import bisect
import hashlib
import importlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from qk_lightning.config.errors import ConfigError, Problem
from qk_lightning.config.schema import schema_of
from qk_lightning.data.hashing import hash_uniform, mix
from qk_lightning.data.sample import TASKS, Progress, Roles, Sample, Split, World, WorldPart
from qk_lightning.data.worlds.asked_question import LOOK, READ, Question

_PURPOSE_QUESTION = 2**62  # keeps the draw of a question's world apart from other draws


class Mixture(World):
    """Worlds of equal picture size, each with a weight.

    A sample's id begins with its world's label, and `facts["world"]` is the label.

    Args:
        worlds: By label: the world's options, with `weight` (1 if left out; 0 = off) and `name`
            (the label if left out).
        size: Pixels of a picture's side, for worlds that do not say; null = their own.

    Attributes:
        worlds: The worlds that are on, by label.
        weights: Their weights.

    Raises:
        ConfigError: If no world is on, sizes differ, or a world refuses its options.
    """

    version = 1
    holds = "worlds"  # the option whose values are worlds with weights

    def __init__(self, *, worlds: dict[str, Any], size: int | None = None) -> None:
        opened, weights, problems = {}, {}, []
        for label, options in worlds.items():
            given = dict(options or {})
            weight = float(given.pop("weight", 1.0))
            if not weight:
                continue
            try:
                opened[label] = _open(given.pop("name", label), given, size)
                weights[label] = weight
            except ConfigError as error:
                problems += [_relabelled(problem, label) for problem in error.problems]
        if problems:
            raise ConfigError(problems)
        self._set(opened, weights)
        if size not in (None, self.size):
            expected = f"{self.size}, the size of its worlds"
            raise ConfigError(Problem("data.world.size", size, expected, "leave it out"))

    @classmethod
    def of(cls, worlds: Mapping[str, World], weights: Mapping[str, float] | None = None) -> Mixture:
        """Mixes worlds that are open already.

        Args:
            worlds: By label.
            weights: By label; 1 where it names none, 0 leaves a world out.

        Returns:
            The mixture.

        Raises:
            ConfigError: If no world is on or sizes differ.
        """
        mixture = cls.__new__(cls)
        found = {label: float((weights or {}).get(label, 1.0)) for label in worlds}
        on = {label: world for label, world in worlds.items() if found[label]}
        mixture._set(on, {label: found[label] for label in on})
        return mixture

    def _set(self, worlds: Mapping[str, World], weights: Mapping[str, float]) -> None:
        self.worlds = {label: worlds[label] for label in sorted(worlds)}
        self.weights = {label: weights[label] for label in self.worlds}
        _check(self.worlds, self.weights)
        self.size = next(iter(self.worlds.values())).size
        offered = {task for world in self.worlds.values() for task in world.tasks}
        self.tasks = tuple(task for task in TASKS if task in offered)
        self._parts, self._num_images = [], 0
        for label, world in self.worlds.items():
            self._parts.append(WorldPart(label, world, self.weights[label], self._num_images))
            self._num_images += world.num_images

    # ---- the whole and its parts

    def parts(self) -> list[WorldPart]:
        """The worlds that are on, in the order of rows and samples."""
        return self._parts

    def part_of(self, item: int | Sample) -> WorldPart:
        """Returns the world that a row or a sample comes from.

        Args:
            item: A row of the mixture, or one of its samples.
        """
        if isinstance(item, Sample):
            return self._labelled(item.facts["world"])
        if not 0 <= item < self.num_images:
            raise IndexError(f"row {item} of a mixture of {self.num_images} images")
        firsts = [part.first_row for part in self._parts]
        return self._parts[bisect.bisect_right(firsts, item) - 1]

    def _labelled(self, label: str) -> WorldPart:
        return next(part for part in self._parts if part.label == label)

    def fingerprint(self) -> str:
        """A short hash of the worlds and their labels; weights change neither sample nor pixel."""
        inner = {label: world.fingerprint() for label, world in self.worlds.items()}
        digest = hashlib.sha256(repr((self.version, sorted(inner.items()))).encode())
        return f"mixture-{digest.hexdigest()[:12]}"

    # ---- images

    def prepare(self, progress: Progress | None = None) -> None:
        """Prepares all worlds.

        Args:
            progress: Called with (done, total) images of all worlds.
        """
        for part in self._parts:
            part.world.prepare(progress and self._shifted(progress, part.first_row))

    def _shifted(self, progress: Progress, first_row: int) -> Progress:
        return lambda done, total: progress(first_row + done, self.num_images)

    @property
    def num_images(self) -> int:
        """Rows of all worlds."""
        return self._num_images

    def image(self, row: int) -> np.ndarray:
        """Returns image `row`: [3, size, size] uint8."""
        part = self.part_of(row)
        return part.world.image(row - part.first_row)

    # ---- samples

    def num_samples(self, task: str, split: Split) -> int:
        """The number of samples of a task in a split, over all worlds."""
        return sum(world.num_samples(task, split) for world in self.worlds.values())

    def sample(self, task: str, split: Split, index: int) -> Sample:
        """Returns sample `index` (modulo `num_samples`) of a task and split."""
        index %= self.num_samples(task, split)
        for part in self._parts:
            count = part.world.num_samples(task, split)
            if index < count:
                return _of_part(part.world.sample(task, split, index), part)
            index -= count
        raise AssertionError("an index within num_samples is in one of the worlds")

    def layouts(self, task: str, split: Split) -> list[tuple[Roles, int]]:
        """Each world's layouts, one world after the other."""
        return [
            (tuple(roles), count)
            for world in self.worlds.values()
            if world.num_samples(task, split)
            for roles, count in world.layouts(task, split)
        ]

    # ---- questions

    def asked(self, index: int) -> str:
        """Returns the label of the world that question `index` is about, drawn by weight.

        Args:
            index: Any number from 0.

        Raises:
            ConfigError: If none of the worlds can be asked.
        """
        able = [label for label, world in self.worlds.items() if hasattr(world, "qa")]
        if not able:
            fix = "add one that has `qa`, such as avatars or scenes"
            raise ConfigError(
                Problem("data.world.worlds", list(self.worlds), "a world with questions", fix)
            )
        edges = np.cumsum([self.weights[label] for label in able])
        draw = hash_uniform(mix(_PURPOSE_QUESTION, index))[0] * edges[-1]
        return able[int(np.searchsorted(edges[:-1], draw, side="right"))]

    def qa(self, index: int, split: Split) -> tuple[int | None, str, str]:
        """Draws a question of one of the worlds.

        Args:
            index: Any number from 0.
            split: Whose pictures are asked about.

        Returns:
            Row of the picture (None without), question, answer.
        """
        part = self._labelled(self.asked(index))
        row, question, answer = part.world.qa(index, split)  # type: ignore[attr-defined]
        return (None if row is None else part.first_row + row), question, answer

    def question(self, index: int, split: Split) -> Question:
        """Draws the question of `qa` with all that scoring needs of it.

        Args:
            index: Any number from 0.
            split: Whose pictures are asked about.
        """
        part = self._labelled(self.asked(index))
        if hasattr(part.world, "question"):
            found: Question = part.world.question(index, split)
        else:
            row, text, answer = part.world.qa(index, split)  # type: ignore[attr-defined]
            found = Question(row, text, answer, READ if row is None else LOOK, part.label)
        return found if found.row is None else replace(found, row=part.first_row + found.row)

    def captions_for_tokenizer(self, num_drawn: int = 2000) -> Iterator[str]:
        """Gives the texts of all worlds that have any.

        Args:
            num_drawn: Drawn questions of each world.
        """
        for world in self.worlds.values():
            if hasattr(world, "captions_for_tokenizer"):
                yield from world.captions_for_tokenizer(num_drawn)


def _open(name: str, options: dict[str, Any], size: int | None) -> World:
    schema = schema_of("world", name)
    if size is not None and "size" in schema.options:
        options = {"size": size, **options}
    world: World = getattr(importlib.import_module(schema.module), schema.class_name)(**options)
    return world


def _relabelled(problem: Problem, label: str) -> Problem:
    """A world's problem under the key it has in the mixture."""
    old, new = "data.world.", f"data.world.worlds.{label}."
    key = problem.key.replace(old, new) if problem.key.startswith(old) else new[:-1]
    return replace(problem, key=key, fix=problem.fix.replace(old, new))


def _check(worlds: Mapping[str, World], weights: Mapping[str, float]) -> None:
    if not worlds:
        fix = "give one of them a weight above 0, as in data.world.worlds.scenes.weight=1"
        raise ConfigError(Problem("data.world.worlds", {}, "at least one world that is on", fix))
    sizes = {label: world.size for label, world in worlds.items()}
    if len(set(sizes.values())) > 1:
        expected = f"one picture size in all worlds, found {sizes}"
        fix = f"set data.world.size={max(sizes.values())} and no size in the worlds"
        raise ConfigError(Problem("data.world.worlds", None, expected, fix))
    for label, weight in weights.items():
        if not 0 < weight < float("inf"):
            key = f"data.world.worlds.{label}.weight"
            raise ConfigError(Problem(key, weight, "a finite weight from 0", "0 = off"))


def _of_part(sample: Sample, part: WorldPart) -> Sample:
    return replace(
        sample,
        id=f"{part.label}/{sample.id}",
        images=tuple(part.first_row + row for row in sample.images),
        target=part.first_row + sample.target,
        facts={**sample.facts, "world": part.label},
    )
