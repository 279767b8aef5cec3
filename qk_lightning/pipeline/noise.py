"""The noise that pictures begin with, from a seed or from generators as diffusers takes them.

P prompts, n pictures of each, latents of C x h x w (which may differ from prompt to prompt).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from qk_lightning.config.errors import ConfigError, Problem

Generators = Generator | Sequence[Generator] | None


def check_generator(generator: Generators, seed: int, count: int) -> None:
    """See that generators fit what is drawn.

    Args:
        generator: one, or one for each picture.
        seed: the other way to say it.
        count: pictures, P n.

    Raises:
        ConfigError: both are given, or there are too many or too few.
    """
    if generator is None:
        return
    if seed:
        fix = "give a generator or a seed"
        raise ConfigError(Problem("seed", seed, "no seed beside a generator", fix))
    several = [generator] if isinstance(generator, Generator) else generator
    if not isinstance(several, Sequence) or not all(isinstance(g, Generator) for g in several):
        fix = "for example torch.Generator().manual_seed(0)"
        raise ConfigError(Problem("generator", repr(generator), "torch.Generator", fix))
    if not isinstance(generator, Generator) and len(several) != count:
        expected = f"one generator, or one for each of the {count} pictures"
        raise ConfigError(Problem("generator", len(several), expected, f"give {count}"))


def draw_noise(
    shapes: Sequence[tuple[int, ...]], num_images: int, seed: int, generator: Generators
) -> list[Tensor]:
    """Draw standard normal noise for every prompt, in the order they were asked.

    A seed starts anew for each prompt, so several prompts at once get the noise that each would
    get alone. One generator goes on from prompt to prompt; several give a picture each.

    Args:
        shapes: (C, h, w) of each of the P prompts.
        num_images: pictures of each, n.
        seed: where there is no generator.
        generator: one, or P n of them; drawn on their own device.

    Returns:
        P tensors [n, C, h, w].
    """
    noise = []
    for place, shape in enumerate(shapes):
        if isinstance(generator, Sequence):
            own = generator[place * num_images : (place + 1) * num_images]
            noise.append(torch.cat([_normal((1, *shape), one) for one in own]))
        else:
            source = generator or torch.Generator().manual_seed(seed)
            noise.append(_normal((num_images, *shape), source))
    return noise


def _normal(shape: tuple[int, ...], generator: Generator) -> Tensor:
    return torch.randn(shape, generator=generator, device=generator.device)
