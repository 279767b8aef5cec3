"""What the VLM says of prompts, as tokens to look at, to change, and to draw from.

`pipeline.read(prompts)` reads them, `pipeline.draw(tokens)` draws from them; changed tokens go
through the connector like any. N prompts, T text tokens, K kontext tokens, D width of the VLM.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from qk_lightning.config.errors import ConfigError, Problem
from qk_lightning.data.sample import Batch
from qk_lightning.parts.vlms.inputs import VLMOutput
from qk_lightning.pipeline.noise import Noise

if TYPE_CHECKING:
    from qk_lightning.systems.query_kontext import QueryKontext

Part = Literal["text", "kontext"]
PARTS = ("text", "kontext")


@dataclass(frozen=True)
class Tokens:
    """What was read of some prompts.

    Args:
        batch: the prompts, and pictures where there are any.
        text: [N, T, D] states of the prompts' tokens, zero where masked.
        text_mask: [N, T] bool.
        kontext: [N, K, D] states of the queries.
    """

    batch: Batch
    text: Tensor
    text_mask: Tensor
    kontext: Tensor

    @property
    def prompts(self) -> list[str]:
        """The N prompts that were read."""
        return list(self.batch.prompts)

    @property
    def num_kontext(self) -> int:
        """The number of kontext tokens, K."""
        return int(self.kontext.shape[1])

    def only(self, part: Part) -> Tokens:
        """Keep the text or the kontext alone.

        Args:
            part: `text` or `kontext`.

        Raises:
            ConfigError: there is no such part, or none of it was read.
        """
        self._check(part)
        if part == "text":
            return replace(self, kontext=self.kontext[:, :0])
        return replace(self, text=self.text[:, :0], text_mask=self.text_mask[:, :0])

    def without(self, *places: int) -> Tokens:
        """Leave kontext tokens out.

        Args:
            *places: which, from 0; below 0 from the end.

        Raises:
            ConfigError: there is no such token, or nothing would be left.
        """
        dropped = self._places(places)
        kept = [place for place in range(self.num_kontext) if place not in dropped]
        if not kept and not self.text.shape[1]:
            expected = "a token or more that is left"
            raise ConfigError(Problem("places", list(places), expected, "leave out fewer"))
        return replace(self, kontext=self.kontext[:, kept])

    def swapped(self, *places: int) -> Tokens:
        """Give each prompt the next one's kontext tokens at some places, the last the first's.

        Args:
            *places: which, from 0; below 0 from the end; none for all.

        Raises:
            ConfigError: there is no such token.
        """
        taken = self._places(places or range(self.num_kontext))
        kontext = self.kontext.clone()
        kontext[:, taken] = self.kontext.roll(-1, 0)[:, taken]
        return replace(self, kontext=kontext)

    def similarity(self, part: Part = "kontext") -> Tensor:
        """Compare prompts by what was read of them.

        Kontext tokens are compared place by place, of texts the means over their tokens are.

        Args:
            part: `text` or `kontext`.

        Returns:
            [N, N] mean cosine; 1 on the diagonal.

        Raises:
            ConfigError: there is no such part, or none of it was read.
        """
        self._check(part)
        states = self.kontext.float()
        if part == "text":
            counts = self.text_mask.sum(1).clamp(min=1)[:, None]
            states = (self.text.float().sum(1) / counts)[:, None]
        unit = torch.nn.functional.normalize(states, dim=-1)
        return torch.einsum("nkd,mkd->nmk", unit, unit).mean(-1)

    def _check(self, part: str) -> None:
        if part not in PARTS:
            raise ConfigError(Problem("part", part, " or ".join(PARTS), "name one of them"))
        if not (self.kontext if part == "kontext" else self.text).shape[1]:
            fix = "take a run whose system.context is both"
            raise ConfigError(Problem("part", part, "a part that the head is given", fix))

    def _places(self, places: Sequence[int]) -> list[int]:
        count = self.num_kontext
        for place in places:
            if isinstance(place, bool) or not isinstance(place, int) or not -count <= place < count:
                expected = (
                    f"a kontext token, 0 to {count - 1}" if count else "no token: none is read"
                )
                raise ConfigError(Problem("places", place, expected, "name another"))
        return [place % count for place in places]


def read_tokens(system: QueryKontext, batch: Batch) -> Tokens:
    """Read a batch.

    Args:
        system: with its parts loaded.
        batch: the prompts, and pictures where there are any.
    """
    read = system.read(batch)
    return Tokens(batch, read.text_states, read.text_mask, read.kontext)


def draw_tokens(system: QueryKontext, tokens: Tokens, noise: Noise, is_latent: bool) -> Tensor:
    """Draw from tokens, with the guidance that the system samples with.

    Args:
        system: with its parts loaded.
        tokens: as read or changed; guidance moves away from the empty prompt as it is read.
        noise: where it comes from, one picture a prompt.
        is_latent: leave out decoding.

    Returns:
        [N, 3, H, W] in [-1, 1], or latents [N, C, h, w].
    """
    noise.check(len(tokens.prompts))
    shapes = [system.latent_shape(tokens.batch)] * len(tokens.prompts)
    starts = torch.cat(noise.draw(shapes)).to(system.device)
    given = VLMOutput(tokens.text, tokens.text_mask, tokens.kontext)
    latents = system.sample(tokens.batch, starts, given)
    return latents if is_latent else system.autoencoder.decode(latents).clamp(-1, 1)
