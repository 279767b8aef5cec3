"""What goes into a VLM, what comes out, and what is kept between prefill and read.

Not here: how prompts become inputs (`prompts.py`) and the passes themselves (`passes.py`).
Shapes: B samples; S prefix positions, padded on the left; T positions of the longest prompt;
K queries; D hidden size of the VLM; M layers where more than the last is asked for; R rows of
positions (3 where the VLM has time, row and column, else 1).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

Layers = tuple[int, ...] | None  # indices of transformers' hidden_states; None: the last alone


@dataclass
class Pictures:
    """The images of a batch as a vision tower takes them, all of one size.

    Args:
        pixel_values: [images * patches, channels of a patch], or [images, tiles, 3, H, W].
        num_tokens: Placeholder tokens of one image in the prompt.
        grid_thw: [images, 3] int64, patches of each image (Qwen-VL), or None.
        image_size: Height and width before any resizing (LLaVA), or None.
    """

    pixel_values: Tensor
    num_tokens: int
    grid_thw: Tensor | None = None
    image_size: tuple[int, int] | None = None


@dataclass
class VLMInputs:
    """A batch of prompts, made by `vlm.prepare`.

    Args:
        input_ids: [B, S] int64.
        attention_mask: [B, S] int64, 0 on the padding at the left.
        position_ids: [R, B, S] int64: time, row and column of each token, or its place alone.
        prompt_mask: [B, S] bool, True on the prompt's own tokens.
        prompt_columns: First and last + 1 column that holds a prompt token of any sample.
        pixel_values: As in `Pictures`, or None.
        image_grid_thw: [images, 3] int64, patches of each image, or None.
        image_size: As in `Pictures`.
        num_cut: Prompts that were longer than the limit.

    Raises:
        ValueError: The padding is not at the left: queries would follow padding.
    """

    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    prompt_mask: Tensor
    prompt_columns: tuple[int, int]
    pixel_values: Tensor | None = None
    image_grid_thw: Tensor | None = None
    image_size: tuple[int, int] | None = None
    num_cut: int = 0

    def __post_init__(self) -> None:
        """Refuse padding at the right: queries read there give other numbers, silently."""
        mask = self.attention_mask
        if bool((mask[:, 1:] < mask[:, :-1]).any()):
            raise ValueError(
                "attention_mask: padding after a token, expected padding at the left alone; make "
                "inputs with vlm.prepare(prompts, images), which pads there whatever the tokenizer "
                "does."
            )

    def to(self, device: torch.device | str) -> VLMInputs:
        """Move all tensors.

        Args:
            device: Where to.

        Returns:
            A copy on the device.
        """
        moved = copy.copy(self)  # no second look at the mask, which would wait for the device
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, Tensor):
                setattr(moved, item.name, value.to(device))
        return moved

    def prompt_states(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Cut the prompts out of the prefix, right-aligned: a prompt's last token comes last.

        Args:
            states: [B, >= S, D], or [M, B, >= S, D].

        Returns:
            text_states [(M,) B, T, D], zero where masked, and text_mask [B, T] bool.
        """
        columns = slice(*self.prompt_columns)
        mask = self.prompt_mask[:, columns]
        return states[..., columns, :].masked_fill(~mask[..., None], 0.0), mask

    @property
    def next_position(self) -> Tensor:
        """[B] int64, the position of the first token after the prefix."""
        return self.position_ids.amax(dim=(0, 2)) + 1


@dataclass
class Embedded:
    """A sequence on its way into the language model.

    Args:
        states: [B, L, D] embeddings of tokens, images and queries.
        image_mask: [B, L] bool, True on image tokens; None where nothing is added later.
        image_layers: What a VLM adds to the image tokens' states after its first layers
            (Qwen3-VL's deepstack), each [image tokens, D].
    """

    states: Tensor
    image_mask: Tensor | None = None
    image_layers: tuple[Tensor, ...] = ()

    def followed_by(self, more: Tensor) -> Embedded:
        """Append embeddings that are no image.

        Args:
            more: [B, K, D].

        Returns:
            The longer sequence.
        """
        states = torch.cat([self.states, more], dim=1)
        if self.image_mask is None:
            return Embedded(states)
        blank = self.image_mask.new_zeros(more.shape[:2])
        return replace(self, states=states, image_mask=torch.cat([self.image_mask, blank], dim=1))


class VLMOutput(NamedTuple):
    """What the VLM hands on; a tuple, so that FSDP finds the tensors that need a gradient.

    Args:
        text_states: [B, T, D] final states of the prompts' tokens, right-aligned, zero where
            masked; [M, B, T, D] where layers were asked for.
        text_mask: [B, T] bool.
        kontext: [B, K, D] final states of the queries; [M, B, K, D] where layers were asked for.
    """

    text_states: Tensor
    text_mask: Tensor
    kontext: Tensor


@dataclass
class Prefix:
    """All that reading needs of a prefix, computed once and without gradient.

    Args:
        text_states: [(M,) B, T, D].
        text_mask: [B, T] bool.
        cache: transformers' DynamicCache with the keys and values of the S prefix positions.
        attention_mask: [B, S] int64.
        next_position: [B] int64, where the queries' positions start.
        num_rows: R, rows of positions.
        layers: The M layers whose states are read; None for the last alone.
    """

    text_states: Tensor
    text_mask: Tensor
    cache: Any
    attention_mask: Tensor
    next_position: Tensor
    num_rows: int = 3
    layers: Layers = None

    def fork_cache(self) -> Any:
        """Copy the cache without its tensors: reading grows the copy and leaves this one alone.

        Returns:
            A cache that shares the keys and values.
        """
        return fork(self.cache)


def fork(cache: Any) -> Any:
    """Copy a key/value cache without its tensors.

    Args:
        cache: transformers' DynamicCache; reading the copy does not grow it.

    Returns:
        A cache that shares the keys and values.
    """
    copied = copy.copy(cache)
    copied.layers = [copy.copy(layer) for layer in cache.layers]
    return copied
