"""What goes into a VLM, what comes out, and what is kept between prefill and read.

Not here: how prompts become inputs (`prompts.py`) and the passes themselves (`passes.py`).
Shapes: B samples; S prefix positions, padded on the left; T positions of the longest prompt;
K queries; D hidden size of the VLM.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor


@dataclass
class VLMInputs:
    """A batch of prompts, made by `vlm.prepare`.

    Args:
        input_ids: [B, S] int64.
        attention_mask: [B, S] int64, 0 on the padding at the left.
        position_ids: [3, B, S] int64, time, row and column of each token.
        prompt_mask: [B, S] bool, True on the prompt's own tokens.
        prompt_columns: First and last + 1 column that holds a prompt token of any sample.
        pixel_values: [images * patches, channels of a patch] or None.
        image_grid_thw: [images, 3] int64, patches of each image, or None.
        num_cut: Prompts that were longer than the limit.
    """

    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    prompt_mask: Tensor
    prompt_columns: tuple[int, int]
    pixel_values: Tensor | None = None
    image_grid_thw: Tensor | None = None
    num_cut: int = 0

    def to(self, device: torch.device | str) -> VLMInputs:
        """Move all tensors.

        Args:
            device: Where to.

        Returns:
            A copy on the device.
        """
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        moved = {k: v.to(device) for k, v in values.items() if isinstance(v, Tensor)}
        return replace(self, **moved)

    def prompt_states(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Cut the prompts out of the prefix, right-aligned: a prompt's last token comes last.

        Args:
            states: [B, >= S, D].

        Returns:
            text_states [B, T, D], zero where masked, and text_mask [B, T] bool.
        """
        columns = slice(*self.prompt_columns)
        mask = self.prompt_mask[:, columns]
        return states[:, columns].masked_fill(~mask[..., None], 0.0), mask

    @property
    def next_position(self) -> Tensor:
        """[B] int64, the position of the first token after the prefix."""
        return self.position_ids.amax(dim=(0, 2)) + 1


class VLMOutput(NamedTuple):
    """What the VLM hands on; a tuple, so that FSDP finds the tensors that need a gradient.

    Args:
        text_states: [B, T, D] final states of the prompts' tokens, right-aligned, zero where
            masked.
        text_mask: [B, T] bool.
        kontext: [B, K, D] final states of the queries.
    """

    text_states: Tensor
    text_mask: Tensor
    kontext: Tensor


@dataclass
class Prefix:
    """All that reading needs of a prefix, computed once and without gradient.

    Args:
        text_states: [B, T, D].
        text_mask: [B, T] bool.
        cache: transformers' DynamicCache with the keys and values of the S prefix positions.
        attention_mask: [B, S] int64.
        next_position: [B] int64, where the queries' positions start.
    """

    text_states: Tensor
    text_mask: Tensor
    cache: Any
    attention_mask: Tensor
    next_position: Tensor

    def fork_cache(self) -> Any:
        """Copy the cache without its tensors: reading grows the copy and leaves this one alone.

        Returns:
            A cache that shares the keys and values.
        """
        fork = copy.copy(self.cache)
        fork.layers = [copy.copy(layer) for layer in self.cache.layers]
        return fork
