"""From draws to tensors: reading samples, stacking them, choosing the fixed validation ones.

Shapes: B samples, N input images of a sample, H = W = world.size, C x h x w a latent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from qk_lightning.data.sample import Batch, Sample, Split, World

if TYPE_CHECKING:
    from qk_lightning.data.latent_cache import LatentCache
    from qk_lightning.data.mixture import Draw


def to_unit(images: np.ndarray) -> Tensor:
    """Turns stored pixels into what networks see: uint8 / 127.5 - 1.

    Args:
        images: [..., 3, H, W] uint8.

    Returns:
        The same shape, float32 in [-1, 1].
    """
    return torch.from_numpy(np.ascontiguousarray(images)).float().div_(127.5).sub_(1.0)


def to_pixels(images: Tensor) -> np.ndarray:
    """Turns images in [-1, 1] back into pixels, rounded and clamped; inverts `to_unit`.

    Args:
        images: [..., 3, H, W] float in [-1, 1].

    Returns:
        The same shape, uint8.
    """
    pixels = images.detach().float().add(1.0).mul(127.5).round().clamp(0, 255)
    return pixels.to(torch.uint8).cpu().numpy()


class Collate:
    """Reads the draws of one micro-batch and stacks them.

    Args:
        world: Where samples and images come from.
        latents: Latents of all the world's images, if they are cached.
        split: "train" or "val".
    """

    def __init__(
        self, world: World, latents: LatentCache | None = None, split: Split = "train"
    ) -> None:
        self.world = world
        self.latents = latents
        self.split = split

    def __call__(self, draws: Sequence[Draw]) -> Batch:
        """Returns the batch of some draws, all of one layout.

        Args:
            draws: B draws.

        Returns:
            The batch, on the CPU.

        Raises:
            ValueError: If the samples' tasks or roles differ (a world whose `layouts` are wrong).
        """
        samples = [self.world.sample(draw.task, self.split, draw.index) for draw in draws]
        task, roles = samples[0].task, samples[0].roles
        for sample in samples:
            if (sample.task, sample.roles) != (task, roles):
                raise ValueError(
                    f"samples {samples[0].id} and {sample.id} have different layouts "
                    f"({roles}, {sample.roles}); expected one layout a batch: check "
                    f"{type(self.world).__name__}.layouts"
                )
        return Batch(
            ids=[sample.id for sample in samples],
            index=torch.tensor([draw.global_index for draw in draws]),
            task=task,
            prompts=[sample.prompt for sample in samples],
            images=self._pixels([sample.images for sample in samples]) if roles else None,
            roles=roles,
            target=self._pixels([(sample.target,) for sample in samples])[:, 0],
            facts=[sample.facts for sample in samples],
            edit_mask=_edit_masks(samples, self.world.size),
            **self._latents(samples),
        )

    def _pixels(self, rows: list[tuple[int, ...]]) -> Tensor:
        """Images of rows, [B][N] -> [B, N, 3, H, W]."""
        return to_unit(np.stack([[self.world.image(row) for row in of] for of in rows]))

    def _latents(self, samples: list[Sample]) -> dict[str, Tensor]:
        if self.latents is None:
            return {}
        found = {"target_latents": self.latents[[sample.target for sample in samples]]}
        if samples[0].roles:
            rows = [row for sample in samples for row in sample.images]
            found["image_latents"] = self.latents[rows].unflatten(0, (len(samples), -1))
        return found


def _edit_masks(samples: list[Sample], size: int) -> Tensor | None:
    """Stacks edit masks, [B, H, W]; a sample without one may change everywhere."""
    if all(sample.edit_mask is None for sample in samples):
        return None
    everywhere = np.ones((size, size), dtype=bool)
    masks = [everywhere if s.edit_mask is None else s.edit_mask for s in samples]
    return torch.from_numpy(np.stack(masks).astype(bool))


def spread(world: World, task: str, split: Split, count: int) -> list[list[int]]:
    """Chooses fixed samples of a task: the first of each layout, in proportion to their numbers.

    The worlds of a mixture that offer the task take equal shares, whatever their weights.

    Args:
        world: Where the samples are.
        task: One of the world's tasks.
        split: "train" or "val".
        count: How many are wanted; at most all are given, none twice.

    Returns:
        Indices, one list a world and layout, empty ones left out. With one layout: 0 .. count - 1.
    """
    parts = [part.world for part in world.parts() if part.world.num_samples(task, split)]
    shares = _equal_shares(count, [part.num_samples(task, split) for part in parts])
    chosen, start = [], 0
    for part, wanted in zip(parts, shares, strict=True):
        first, total = start, part.num_samples(task, split)
        for _, size in part.layouts(task, split):
            # Cumulative rounding: the parts add up to `wanted`, and none exceeds its layout.
            before, after = start - first, start - first + size
            number = _rounded(after, wanted, total) - _rounded(before, wanted, total)
            chosen.append(list(range(start, start + number)))
            start += size
    return [indices for indices in chosen if indices]


def _equal_shares(count: int, sizes: list[int]) -> list[int]:
    """Parts a number equally among worlds; what one cannot give, the others do."""
    shares = [0] * len(sizes)
    left = min(count, sum(sizes))
    while left:
        open_parts = [n for n, size in enumerate(sizes) if shares[n] < size]
        for place, number in enumerate(open_parts):
            wanted = left // len(open_parts) + (place < left % len(open_parts))
            shares[number] += min(wanted, sizes[number] - shares[number])
        left = min(count, sum(sizes)) - sum(shares)
    return shares


def _rounded(place: int, wanted: int, total: int) -> int:
    return -(-place * wanted // total)
