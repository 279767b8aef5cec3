"""What the drawn worlds share: an image table drawn once, and samples over items of it.

An item is a number of pictures that belong together (a scene and its edit, a person in two
states), one row for each kind of picture; train items come first. Not here: what the items are
and what is said of them (avatars.py, scenes.py).
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from qk_lightning.config.errors import ConfigError, Problem
from qk_lightning.config.paths import cache_root
from qk_lightning.data.disk_cache import image_table
from qk_lightning.data.sample import TASKS, Progress, Roles, Sample, Split, World
from qk_lightning.data.worlds.asked_question import Question

MAX_SIZE = 4096  # pixels of a side; beyond it one picture fills a machine's memory
NUM_PHRASINGS = 8  # how often the train split tells of the same images in drawn words
Kinds = tuple[int, ...]
Layouts = tuple[Kinds, ...]
_ROLES: dict[str, Roles] = {
    "text_to_image": (),
    "reconstruction": ("source",),
    "transformation": ("source",),
    "editing": ("source",),
    "customised": ("reference",),
    "multi_subject": ("reference", "reference"),
}


class DrawnWorld(World):
    """Items of `num_kinds` pictures, of which each task shows some.

    Args:
        size: Pixels of a picture's side.
        num_train: Items of the train split.
        num_val: Items of the val split, numbered after them.
        world_seed: Draws everything.

    Attributes:
        num_kinds: Pictures of an item.
    """

    tasks = TASKS
    num_kinds: ClassVar[int]

    def __init__(self, *, size: int, num_train: int, num_val: int, world_seed: int) -> None:
        self.size = size
        self.num_train = num_train
        self.num_val = num_val
        self.world_seed = world_seed
        self._table: np.ndarray | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the memory map behind: each process opens its own."""
        return {**self.__dict__, "_table": None}

    # ---- what a world says of itself

    @abstractmethod
    def draw(self, row: int) -> np.ndarray:
        """Draw image `row`, [3, size, size] uint8."""

    @abstractmethod
    def kinds(self, task: str, split: Split) -> Layouts:
        """Return the kinds of a task's input pictures, then of its target.

        Args:
            task: One of TASKS.
            split: "train" or "val".

        Returns:
            One layout or several, which follow one another. `multi_subject` has two inputs of
            one kind: the second is the next item's.
        """

    @abstractmethod
    def tell(
        self, task: str, images: tuple[int, ...], target: int, rng: np.random.Generator
    ) -> tuple[str, dict[str, Any]]:
        """Draw a sample's prompt and note its facts.

        Args:
            task: One of TASKS.
            images: Rows of the input pictures.
            target: Row of the target.
            rng: Draws the words.
        """

    @abstractmethod
    def question(self, index: int, split: Split) -> Question:
        """Draw a question with all that scoring needs of it; endless, a function of the index.

        Args:
            index: Any number from 0.
            split: Whose pictures are asked about.
        """

    # ---- items

    def items_of(self, split: Split) -> tuple[int, int]:
        """Return the first item of a split and how many there are."""
        return (0, self.num_train) if split == "train" else (self.num_train, self.num_val)

    def split_of(self, item: int) -> Split:
        """Return the split of an item."""
        return "train" if item < self.num_train else "val"

    def rng(self, purpose: str, split: str, index: int) -> np.random.Generator:
        """Return a generator for one purpose, the same wherever it is asked."""
        return seeded(self.world_seed, purpose, split, index)

    # ---- the image table

    @property
    def table_path(self) -> Path:
        """The file of the image table: [rows, 3, H, W] uint8."""
        return cache_root() / "worlds" / f"{self.fingerprint()}.npy"

    def prepare(self, progress: Progress | None = None) -> None:
        """Draw all rows once, to `table_path`; a second process waits for the first.

        Args:
            progress: Called with (done, total) rows.
        """
        if self._table is None:
            self._table = image_table(
                self.table_path, self.num_images, self.size, self.draw, progress
            )

    @property
    def num_images(self) -> int:
        """Rows of the image table (both splits)."""
        return self.num_kinds * (self.num_train + self.num_val)

    def image(self, row: int) -> np.ndarray:
        """Return image `row`, [3, H, W] uint8; prepares the table if nobody has."""
        self.prepare()
        assert self._table is not None
        return np.array(self._table[row])

    # ---- samples

    def num_samples(self, task: str, split: Split) -> int:
        """The number of samples of a task in a split (train: each told in several phrasings)."""
        phrasings = NUM_PHRASINGS if split == "train" else 1
        return phrasings * len(self.kinds(task, split)) * self.items_of(split)[1]

    def sample(self, task: str, split: Split, index: int) -> Sample:
        """Return sample `index` (taken modulo `num_samples`) of a task and split."""
        index = index % self.num_samples(task, split)
        first, count = self.items_of(split)
        item, layouts = first + index % count, self.kinds(task, split)
        kinds = layouts[index // count % len(layouts)]
        *images, target = (self.num_kinds * item + kind for kind in kinds)
        if task == "multi_subject":
            images[1] += self.num_kinds * (next_item(item, first, count) - item)
        prompt, facts = self.tell(task, tuple(images), target, self.rng(task, split, index))
        edit_mask = None
        if task in ("transformation", "editing"):
            edit_mask = (self.image(images[0]) != self.image(target)).any(0)
        return Sample(
            id=f"{split}/{task}/{index}",
            task=task,
            prompt=prompt,
            images=tuple(images),
            roles=_ROLES[task],
            target=target,
            facts=facts,
            edit_mask=edit_mask,
        )

    def layouts(self, task: str, split: Split) -> Sequence[tuple[Roles, int]]:
        """The layout of a task; nothing is drawn to know it.

        Args:
            task: One of `tasks`.
            split: "train" or "val".

        Returns:
            The task's roles for all its samples.
        """
        num_samples = self.num_samples(task, split)
        return [(_ROLES[task], num_samples)] if num_samples else []

    def qa(self, index: int, split: Split) -> tuple[int | None, str, str]:
        """Draw a question with its answer; see `question`.

        Args:
            index: Any number from 0.
            split: Whose pictures are asked about.

        Returns:
            Row of the picture (None without), question, answer.
        """
        return self.question(index, split).as_asked


def next_item(item: int, first: int, count: int) -> int:
    """Return the item after one of `count` from `first` on; after the last comes the first."""
    return first + (item - first + 1) % count


def sources_digest(*modules: ModuleType) -> str:
    """Return a digest of the source of the modules that decide what a world draws.

    Args:
        modules: Modules of this package.
    """
    texts = [Path(str(module.__file__)).read_bytes() for module in modules]
    return hashlib.sha256(b"\0".join(texts)).hexdigest()


def seeded(seed: int, purpose: str, split: str, index: int) -> np.random.Generator:
    """Return a generator for one purpose of a world, the same wherever it is asked."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{split}/{index}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def check_options(*options: tuple[str, Any, bool, str, Any]) -> None:
    """Refuse a world's options, all at once.

    Args:
        options: Of each: its name, its value, whether that is right, what was expected, a value
            that would do.

    Raises:
        ConfigError: If one is wrong.
    """
    problems = [
        Problem(f"data.world.{name}", value, expected, f"set data.world.{name}={fix}")
        for name, value, is_right, expected, fix in options
        if not is_right
    ]
    if problems:
        raise ConfigError(problems)
