"""Condition dropout: which samples train without prompt or images, so that guidance has a floor.

Not here: the random numbers; they are functions of (seed, sample), drawn by the system.
B samples of one micro-batch, which has one layout: images that are dropped sample by sample turn
black and keep their place; images that leave take the whole group's with them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from qk_lightning.config.errors import Problem
from qk_lightning.data.sample import Batch
from qk_lightning.parts.base import Part

# Tasks whose images are references: in MetaQuery's policy they lose text, images or both.
INSTRUCTIONS = ("customised", "multi_subject")
BLACK = -1.0


@dataclass(frozen=True)
class Shares:
    """How often conditions are dropped, each from 0 to 1.

    Args:
        prompt: The prompt alone.
        image: The images alone.
        joint: Prompt and images at once.
    """

    prompt: float
    image: float
    joint: float


def share_problems(policy: str, shares: Shares) -> list[Problem]:
    """Say what is wrong with shares.

    Args:
        policy: independent, metaquery or instruction.
        shares: As configured.

    Returns:
        One problem for each share that cannot be.
    """
    problems = [
        Problem(f"system.{name}_dropout", share, "a share from 0 to 1", "choose one")
        for name, share in vars(shares).items()
        if not 0 <= share <= 1
    ]
    if problems:
        return problems
    if policy == "independent" and shares.joint:
        expected = "0 with system.dropout=independent, which draws for prompt and images apart"
        fix = "leave it out, or set system.dropout=metaquery or instruction"
        problems.append(Problem("system.joint_dropout", shares.joint, expected, fix))
    total = shares.prompt + shares.image + shares.joint
    if policy != "independent" and total > 1 + 1e-9:
        expected = "prompt_dropout + image_dropout + joint_dropout of 1 or less: one draw decides"
        problems.append(Problem("system.dropout", f"{policy}: {total:g}", expected, "lower one"))
    return problems


def dropped_conditions(
    policy: str, task: str, has_images: bool, draws: Tensor, shares: Shares
) -> tuple[Tensor, Tensor]:
    """Decide which samples lose their prompt, and which their images, by one draw each.

    Without images the prompt goes below `prompt`. In one draw for both, from 0 up: prompt alone,
    both, images alone. In metaquery's policy reconstruction, transformation and editing lose
    images only, below `image`.

    Args:
        policy: metaquery or instruction.
        task: The task of all samples.
        has_images: Whether they have input images.
        draws: [B] uniform in (0, 1).
        shares: How often.

    Returns:
        Two [B] bool: prompt dropped, images dropped.

    Source: MetaQuery, arXiv 2504.06256, and github facebookresearch/metaquery (its data loading):
        0.1 for every share.
    """
    none = torch.zeros_like(draws, dtype=torch.bool)
    if not has_images:
        return draws < shares.prompt, none
    if policy == "metaquery" and task not in INSTRUCTIONS:
        return none, draws < shares.image
    no_prompt = shares.prompt + shares.joint
    return draws < no_prompt, (draws >= shares.prompt) & (draws < no_prompt + shares.image)


def empty_prompts(batch: Batch, dropped: Tensor) -> Batch:
    """Return a batch in which some prompts are empty.

    Args:
        batch: Any batch.
        dropped: [B] bool.
    """
    prompts = [
        "" if gone else prompt for prompt, gone in zip(batch.prompts, dropped.tolist(), strict=True)
    ]
    return replace(batch, prompts=prompts)


def without_images(batch: Batch) -> Batch:
    """Return a batch whose VLM and head see no image.

    Args:
        batch: Any batch.
    """
    return replace(batch, images=None, image_latents=None, roles=())


def blacken(batch: Batch, dropped: Tensor, autoencoder: Part) -> Batch:
    """Return a batch in which some samples' input images are black, for VLM and head.

    Args:
        batch: A batch with images.
        dropped: [B] bool.
        autoencoder: Encodes the black picture where the batch carries latents.
    """
    images, latents = batch.images, batch.image_latents
    assert images is not None
    if not dropped.any():
        return batch
    chosen = dropped.to(images.device).view(-1, 1, 1, 1, 1)
    black = torch.full_like(images[:1, :1], BLACK)
    if latents is not None:
        with torch.no_grad():
            encoded = autoencoder.encode(black.flatten(0, 1)).unflatten(0, (1, 1))
        latents = torch.where(chosen, encoded.to(latents), latents)
    return replace(batch, images=torch.where(chosen, black, images), image_latents=latents)
