"""The LightningDataModule: endless training batches from a step on, fixed validation batches.

Use it with `Trainer(use_distributed_sampler=False)`: the order is cut between ranks here.
Shapes: see Batch in sample.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from qk_lightning.config.errors import ConfigError, Problem
from qk_lightning.data.collate import Collate, spread
from qk_lightning.data.latent_cache import LatentCache
from qk_lightning.data.mixture import BatchOrder, Draw, check_batch_sizes, check_tasks
from qk_lightning.data.sample import Batch, World


class DataModule(LightningDataModule):
    """Batches of a world in an order that is a function of (seed, step).

    Training batches never end. They begin at `start_step`, or at the trainer's own step if that
    is further: after a resume, and when Lightning begins a new epoch. The position never comes
    from the loader's counter, which prefetching runs ahead. Ranks must all see the whole world.

    Args:
        world: What there is to train on.
        tasks: Weight of each task; 0 leaves a task out.
        seed: Decides the order.
        global_batch_size: Samples an optimiser step, over all ranks.
        groups_per_step: Groups of one layout (task, roles) a step.
        micro_batch_size: Samples a rank and forward pass; None = a rank's part of a group.
        latents: Latents of the world's images; batches then carry them.
        num_workers: Loader processes; the order is the same with any number.
        num_val_samples: Validation samples of each task that is trained; 0 = no validation.

    Attributes:
        start_step: Optimiser step to begin with; set it before `fit` when resuming.

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
        latents: LatentCache | None = None,
        num_workers: int = 0,
        num_val_samples: int = 0,
    ) -> None:
        super().__init__()
        problems = check_tasks(world, tasks)
        problems += check_batch_sizes(global_batch_size, groups_per_step, micro_batch_size)
        if problems:
            raise ConfigError(problems)
        self.world = world
        self.tasks = {task: float(weight) for task, weight in tasks.items() if weight}
        self.seed = seed
        self.global_batch_size = global_batch_size
        self.groups_per_step = groups_per_step
        self.micro_batch_size = micro_batch_size
        self.latents = latents
        self.num_workers = num_workers
        self.num_val_samples = num_val_samples
        self.start_step = 0

    def setup(self, stage: str | None = None) -> None:
        """Builds the world's caches if they are missing; one process builds, the rest wait."""
        del stage
        self.world.prepare()

    def order(self, rank: int = 0, world_size: int = 1, start_step: int = 0) -> BatchOrder:
        """Returns the batch order of one rank.

        Args:
            rank: The process, from 0.
            world_size: Number of processes.
            start_step: Optimiser step to begin with.

        Returns:
            The order; its `micro_batches_per_step` is the trainer's `accumulate_grad_batches`.

        Raises:
            ConfigError: If the sizes do not divide among the ranks.
        """
        return BatchOrder(
            self.world,
            self.tasks,
            self.seed,
            self.global_batch_size,
            self.groups_per_step,
            self.micro_batch_size,
            rank,
            world_size,
            start_step,
        )

    def micro_batches_per_step(self, world_size: int = 1) -> int:
        """Returns the trainer's `accumulate_grad_batches`.

        Args:
            world_size: Number of processes.
        """
        return self.order(0, world_size).micro_batches_per_step

    def train_dataloader(self) -> DataLoader[Batch]:
        """Returns this rank's endless micro-batches.

        Returns:
            A loader without a length.

        Raises:
            ConfigError: If sizes do not divide among the ranks, or the trainer accumulates
                another number of micro-batches than a step has.
        """
        rank, world_size, accumulated = 0, 1, None
        if self.trainer is not None:
            rank, world_size = self.trainer.global_rank, self.trainer.world_size
            accumulated = self.trainer.accumulate_grad_batches
        order = self.order(rank, world_size)
        if accumulated not in (None, order.micro_batches_per_step):
            expected = f"{order.micro_batches_per_step}, the micro-batches of a step on one rank"
            fix = "Trainer(accumulate_grad_batches=data.order(0, ranks).micro_batches_per_step)"
            raise ConfigError(Problem("accumulate_grad_batches", accumulated, expected, fix))
        return self._loader(_FromNow(order, self))

    def val_dataloader(self) -> DataLoader[Batch] | list[Any]:
        """Returns the first validation samples of every trained task, the same on every rank.

        Returns:
            A loader over `num_val_samples` samples a task, or [] when that is 0.
        """
        draws = []
        for task in self.tasks if self.num_val_samples else ():
            draws += self._val_draws(task, self.num_val_samples, self._val_batch_size)
        if not draws:
            return []
        return DataLoader(
            _Addresses(), batch_sampler=draws, collate_fn=Collate(self.world, self.latents, "val")
        )

    def val_batches(self, task: str, count: int, batch_size: int) -> list[Batch]:
        """Returns fixed validation batches of one task: its first samples, in order.

        Args:
            task: A task of the world, trained or not.
            count: Samples wanted; at most all of the val split are given, none twice.
            batch_size: The most samples of a batch; a batch never mixes layouts.

        Returns:
            The batches; `index` is the position in the task's val split.

        Raises:
            ConfigError: If the world has no validation samples of the task.
        """
        collate = Collate(self.world, self.latents, "val")
        return [collate(draws) for draws in self._val_draws(task, count, batch_size)]

    @property
    def _val_batch_size(self) -> int:
        return self.micro_batch_size or self.global_batch_size // self.groups_per_step

    def _val_draws(self, task: str, count: int, batch_size: int) -> list[list[Draw]]:
        if task not in self.world.tasks or not self.world.num_samples(task, "val"):
            expected = "a task with validation samples in the world"
            raise ConfigError(
                Problem("task", task, expected, f"choose among: {', '.join(self.world.tasks)}")
            )
        return [
            [Draw(task, index, index) for index in indices[start : start + batch_size]]
            for indices in spread(self.world, task, "val", count)
            for start in range(0, len(indices), batch_size)
        ]

    def _loader(self, batches: _FromNow) -> DataLoader[Batch]:
        return DataLoader(
            _Addresses(),
            batch_sampler=batches,
            collate_fn=Collate(self.world, self.latents),
            num_workers=self.num_workers,
        )


class _FromNow:
    """A batch order that begins, each time it is iterated, at the step that training is at."""

    def __init__(self, order: BatchOrder, data: DataModule) -> None:
        self.order = order
        self.data = data

    def __iter__(self) -> Iterator[list[Draw]]:
        trainer = self.data.trainer
        self.order.start_step = max(self.data.start_step, trainer.global_step if trainer else 0)
        return iter(self.order)


class _Addresses(Dataset[Draw]):
    """A map-style dataset whose items are their own addresses; `Collate` does the reading.

    Map-style with a batch sampler, because a loader then keeps the sampler's order with any
    number of workers.
    """

    def __getitem__(self, draw: Draw) -> Draw:
        return draw
