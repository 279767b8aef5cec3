"""The noise that pictures begin with, from a seed or from generators as diffusers takes them.

P prompts, n pictures of each, latents of C x h x w (which may differ from prompt to prompt).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from qk_lightning.config.arguments import check_counts, check_seed
from qk_lightning.config.errors import ConfigError, Problem

Generators = Generator | Sequence[Generator] | None


@dataclass(frozen=True)
class Noise:
    """Where the noise of one call comes from.

    Args:
        num_images: pictures of each prompt, n.
        seed: where there is no generator.
        generator: one, or P n of them; drawn on their own device.
    """

    num_images: int
    seed: int = 0
    generator: Generators = None

    def check(self, num_prompts: int) -> None:
        """See that there is one source, and that generators fit what is drawn.

        Args:
            num_prompts: P.

        Raises:
            ConfigError: both are given, there are too many or too few generators, or a number is
                out of range.
        """
        check_counts(num_images=self.num_images)
        check_seed("seed", self.seed)
        if self.generator is None:
            return
        if self.seed:
            fix = "give a generator or a seed"
            raise ConfigError(Problem("seed", self.seed, "no seed beside a generator", fix))
        is_one, count = isinstance(self.generator, Generator), num_prompts * self.num_images
        several = [self.generator] if is_one else self.generator
        if not isinstance(several, Sequence) or not all(isinstance(g, Generator) for g in several):
            fix = "for example torch.Generator().manual_seed(0)"
            raise ConfigError(Problem("generator", repr(self.generator), "torch.Generator", fix))
        if not is_one and len(several) != count:
            expected = f"one generator, or one for each of the {count} pictures"
            raise ConfigError(Problem("generator", len(several), expected, f"give {count}"))

    def draw(self, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
        """Draw standard normal noise for every prompt, in the order they were asked.

        A seed starts anew for each prompt, so several prompts at once get the noise that each
        would get alone. One generator goes on from prompt to prompt; several give a picture each.

        Args:
            shapes: (C, h, w) of each of the P prompts.

        Returns:
            P tensors [n, C, h, w].
        """
        noise, num = [], self.num_images
        for place, shape in enumerate(shapes):
            if isinstance(self.generator, Sequence):
                own = self.generator[place * num : (place + 1) * num]
                noise.append(torch.cat([_normal((1, *shape), one) for one in own]))
            else:
                source = self.generator or torch.Generator().manual_seed(self.seed)
                noise.append(_normal((num, *shape), source))
        return noise


def _normal(shape: tuple[int, ...], generator: Generator) -> Tensor:
    return torch.randn(shape, generator=generator, device=generator.device)
