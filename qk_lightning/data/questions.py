"""Questions about a world's pictures and captions, for training a small VLM.

Endless and index-addressed like all data here: question n of a run is `world.qa(n)`.
B questions, of which B_i come with a picture of 3 x H x W.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from qk_lightning.config.errors import ConfigError, Problem
from qk_lightning.data.collate import to_unit
from qk_lightning.data.sample import Split, World


class AsksQuestions(Protocol):
    """A world that can be asked about."""

    def qa(self, index: int, split: Split) -> tuple[int | None, str, str]:
        """Return the picture's row (None without one), the question, the answer."""

    def image(self, row: int) -> np.ndarray:
        """Return a picture, [3, H, W] uint8."""


@dataclass
class Questions:
    """Questions of one kind: all with a picture, or all without.

    Args:
        questions: B texts.
        answers: B texts.
        images: [B, 1, 3, H, W] in [-1, 1], or None.
    """

    questions: list[str]
    answers: list[str]
    images: Tensor | None


def read_questions(world: AsksQuestions, split: Split, indices: list[int]) -> list[Questions]:
    """Read questions and part those with a picture from those without.

    Args:
        world: the world.
        split: whose pictures are asked about.
        indices: which questions.

    Returns:
        One or two sets, no empty one.
    """
    drawn = [world.qa(index, split) for index in indices]
    sets = []
    for with_image in (True, False):
        chosen = [item for item in drawn if (item[0] is not None) == with_image]
        if chosen:
            rows = [row for row, _, _ in chosen if row is not None]
            images = (
                to_unit(np.stack([world.image(row) for row in rows]))[:, None] if rows else None
            )
            sets.append(Questions([q for _, q, _ in chosen], [a for _, _, a in chosen], images))
    return sets


class QuestionData(LightningDataModule):
    """Batches of questions.

    Args:
        world: a world with `qa`.
        batch_size: questions a step.
        num_val: validation questions.

    Attributes:
        start_step: step to begin with; set it before `fit` when resuming.

    Raises:
        ConfigError: the world cannot be asked.
    """

    def __init__(self, world: World, batch_size: int, num_val: int) -> None:
        super().__init__()
        if not hasattr(world, "qa"):
            name = type(world).__name__.lower()
            fix = "use avatars, scenes or a mixture of them"
            problem = Problem("data.world.name", name, "a world with questions", fix)
            raise ConfigError(problem)
        self.world = world
        self.batch_size = batch_size
        self.num_val = num_val
        self.start_step = 0

    def micro_batches_per_step(self, world_size: int = 1) -> int:
        """Return the trainer's `accumulate_grad_batches`.

        Args:
            world_size: number of processes; questions are trained on one.
        """
        if world_size != 1:
            raise ConfigError(Problem("trainer.devices", world_size, "1 for this system", "set 1"))
        return 1

    def train_dataloader(self) -> DataLoader[list[Questions]]:
        """Return endless batches from the trainer's step on."""
        return DataLoader(_Numbers(), batch_sampler=_Order(self), collate_fn=_Read(self, "train"))

    def val_dataloader(self) -> DataLoader[list[Questions]]:
        """Return the first validation questions."""
        return DataLoader(
            _Numbers(self.num_val), batch_size=self.batch_size, collate_fn=_Read(self, "val")
        )


class _Order:
    def __init__(self, data: QuestionData) -> None:
        self.data = data

    def __iter__(self) -> Iterator[list[int]]:
        trainer = self.data.trainer
        step = max(self.data.start_step, trainer.global_step if trainer else 0)
        size = self.data.batch_size
        while True:
            yield list(range(step * size, (step + 1) * size))
            step += 1


class _Read:
    def __init__(self, data: QuestionData, split: Split) -> None:
        self.data = data
        self.split: Split = split

    def __call__(self, indices: list[int]) -> list[Questions]:
        return read_questions(self.data.world, self.split, indices)  # type: ignore[arg-type]


class _Numbers(Dataset[int]):
    """A dataset whose items are their own addresses.

    Args:
        count: how many there are.
    """

    def __init__(self, count: int = 2**62) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> int:
        return index
