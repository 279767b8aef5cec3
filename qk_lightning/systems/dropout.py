"""Condition dropout: which samples train without prompt or images, so that guidance has a floor.

Not here: guidance itself (guidance.py). Draws are functions of (seed, sample).
B samples of one micro-batch, which has one layout: images that are dropped sample by sample turn
black and keep their place; images that leave take the whole group's with them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from qk_lightning.config.errors import Problem
from qk_lightning.data.randomness import uniform
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


def drop_conditions(
    batch: Batch,
    policy: str,
    shares: Shares,
    *,
    seed: int,
    group_size: int,
    autoencoder: Part,
) -> Batch:
    """Take prompts or images from some samples of a training micro-batch, as the policy says.

    Args:
        batch: A training micro-batch.
        policy: independent, metaquery or instruction.
        shares: How often.
        seed: Of the draws, one a sample.
        group_size: Samples of a group, which have one layout.
        autoencoder: As in `blacken`.

    Returns:
        The batch to train on.
    """
    if policy == "independent":
        return _drop_independently(batch, shares, seed, group_size)
    draws = uniform(seed, "condition_dropout", batch.index)
    has_images = batch.images is not None
    prompts, images = dropped_conditions(policy, batch.task, has_images, draws, shares)
    batch = empty_prompts(batch, prompts)
    return blacken(batch, images, autoencoder) if has_images else batch


def _drop_independently(batch: Batch, shares: Shares, seed: int, group_size: int) -> Batch:
    if shares.prompt:
        draws = uniform(seed, "prompt_dropout", batch.index)
        batch = empty_prompts(batch, draws < shares.prompt)
    if shares.image and batch.images is not None:
        # Without images a micro-batch has another layout, so a whole group loses them.
        first = batch.index[:1] // group_size * group_size
        if uniform(seed, "image_dropout", first).item() < shares.image:
            batch = without_images(batch)
    return batch


def images_dropped(batch: Batch, policy: str, autoencoder: Part) -> Batch:
    """Return a batch as training shows it where all images are dropped.

    Args:
        batch: Any batch with images.
        policy: independent, metaquery or instruction.
        autoencoder: As in `blacken`.

    Returns:
        No images, or black ones where the policy blackens them.
    """
    if policy == "independent":
        return without_images(batch)
    every = torch.ones(batch.batch_size, dtype=torch.bool, device=batch.index.device)
    return blacken(batch, every, autoencoder)


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
