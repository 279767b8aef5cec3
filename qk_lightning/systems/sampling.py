"""What the head is conditioned on, and sampling: level by level, under one condition or several.

B batch, N images, L = T + K condition tokens, Dc width, C x h x w latents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from qk_lightning.systems.query_kontext import QueryKontext


@dataclass
class Condition:
    """What the head is given besides the noisy latents.

    Args:
        states: [B, L, Dc], the order is [text, kontext].
        mask: [B, L] bool, False where padded.
        image_latents: [B, N, C, h, w] low-level tokens, or None.
        roles: role of each of the N images.
    """

    states: Tensor
    mask: Tensor
    image_latents: Tensor | None = None
    roles: tuple[str, ...] = ()


def denoise(
    system: QueryKontext, terms: Sequence[tuple[float, Condition]], noise: Tensor
) -> Tensor:
    """Draw latents with the objective's scheduler.

    Args:
        system: with its parts loaded; without gradient is up to the caller.
        terms: weight and condition; the head's predictions are summed with the weights.
        noise: [B, C, h, w], standard normal.

    Returns:
        Latents [B, C, h, w].
    """
    options = system.config.sampling
    scheduler = system.objective.scheduler(options.num_inference_steps, num_cells(noise))
    levels = system.objective.levels(scheduler)
    latents = noise
    for timestep, sigma in zip(scheduler.timesteps, levels, strict=True):
        sigmas = sigma.to(latents).expand(len(latents))
        velocity = torch.zeros_like(latents)
        for weight, condition in terms:
            velocity += weight * system.velocity(latents, sigmas, condition)
        latents = scheduler.step(velocity, timestep, latents).prev_sample
    return latents


def num_cells(latents: Tensor) -> int:
    """Return the number of latent cells of a picture, h * w.

    Args:
        latents: [..., h, w].
    """
    return latents.shape[-2:].numel()
