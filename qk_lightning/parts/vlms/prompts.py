"""Prompts and images become the inputs of the VLM: chat layout, padding, positions.

Not here: pixels (`patches.py`) and the model (`passes.py`).
Shapes: B samples; N images of each; S prefix positions, padded on the left.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from qk_lightning.parts.vlms.inputs import VLMInputs
from qk_lightning.parts.vlms.passes import prefix_positions
from qk_lightning.parts.vlms.patches import PatchSettings, patchify, tokens_of

USER = "<|im_start|>user\n"
ASSISTANT = "<|im_end|>\n<|im_start|>assistant\n"
VISION_START, VISION_END, IMAGE = "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"
END = "<|im_end|>"


def make_inputs(
    model: nn.Module,
    tokenizer: Any,
    settings: PatchSettings,
    prompts: list[str],
    images: Tensor | None,
    max_tokens: int,
) -> VLMInputs:
    """Turn prompts and images into the prefix that the VLM reads.

    Args:
        model: The VLM, for its positions.
        tokenizer: Of the VLM.
        settings: Of the VLM's images.
        prompts: B texts; an empty one is allowed.
        images: [B, N, 3, H, W] in [-1, 1], or None.
        max_tokens: Longer prompts are cut.

    Returns:
        Inputs; the pixels where the images were, the rest on the CPU.

    Raises:
        ValueError: Another number of images than of prompts.
    """
    num_images = 0 if images is None else images.shape[1]
    pixels, grids, image_tokens = None, None, 0
    if num_images:
        if len(images) != len(prompts):
            raise ValueError(
                f"images: {len(images)} rows, expected one for each of {len(prompts)} prompts; "
                "pass [B, N, 3, H, W]."
            )
        pixels, grid = patchify(images.flatten(0, 1), settings)
        grids = torch.tensor([grid] * (len(prompts) * num_images))
        image_tokens = tokens_of(grid, settings)
    ids, mask, lengths, tail = encode_prompts(
        tokenizer,
        prompts,
        num_images=num_images,
        image_tokens=image_tokens,
        max_tokens=max_tokens,
    )
    num_cut = int((lengths > max_tokens).sum())
    lengths = lengths.clamp(max=max_tokens)
    stop = ids.shape[1] - tail
    column = torch.arange(ids.shape[1])
    return VLMInputs(
        input_ids=ids,
        attention_mask=mask,
        position_ids=prefix_positions(model, ids, mask, grids),
        prompt_mask=(column < stop) & (column >= stop - lengths[:, None]),
        prompt_columns=(stop - max(1, int(lengths.max())), stop),
        pixel_values=pixels,
        image_grid_thw=grids,
        num_cut=num_cut,
    )


def encode_prompts(
    tokenizer: Any, prompts: list[str], *, num_images: int, image_tokens: int, max_tokens: int
) -> tuple[Tensor, Tensor, Tensor, int]:
    r"""Turn prompts into the token ids of a chat up to the assistant's turn.

    `<|im_start|>user\n` + num_images x (`<|vision_start|><|image_pad|>..<|vision_end|>`) + prompt
    + `<|im_end|>\n<|im_start|>assistant\n`. The pieces are encoded apart, so that the prompt's
    tokens are known exactly, and a prompt that spells a special token is plain text.

    Args:
        tokenizer: Of the VLM.
        prompts: B texts; an empty one is allowed.
        num_images: Images in front of each prompt.
        image_tokens: Tokens of an image.
        max_tokens: Longer prompts are cut.

    Returns:
        ids [B, S] padded on the left, attention mask [B, S], the prompts' full lengths [B] in
        tokens, and the number of tokens after each prompt.
    """
    image = f"{VISION_START}{IMAGE * image_tokens}{VISION_END}"
    head = tokenizer.encode(USER + image * num_images, add_special_tokens=False)
    tail = tokenizer.encode(ASSISTANT, add_special_tokens=False)
    encoded = encode_plain(tokenizer, prompts)
    rows = [head + row[:max_tokens] + tail for row in encoded]
    ids, mask = pad(rows, tokenizer.pad_token_id, side="left")
    return ids, mask, torch.tensor([len(row) for row in encoded]), len(tail)


def encode_plain(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """Encode texts without any special token, even where they spell one.

    Args:
        tokenizer: Of the VLM.
        texts: Any texts.

    Returns:
        A list of ids for each text.
    """
    encoded = tokenizer(
        texts, add_special_tokens=False, split_special_tokens=True, return_attention_mask=False
    )
    return encoded["input_ids"]


def pad(rows: list[list[int]], value: int, *, side: str) -> tuple[Tensor, Tensor]:
    """Pad rows of ids to the longest.

    Args:
        rows: B lists of ids.
        value: Id of the padding.
        side: Where the padding goes, "left" or "right".

    Returns:
        ids and mask, both [B, length of the longest] int64.
    """
    longest = max(len(row) for row in rows)
    blanks = [[value] * (longest - len(row)) for row in rows]
    left = side == "left"
    ids = [blank + row if left else row + blank for row, blank in zip(rows, blanks, strict=True)]
    length = torch.tensor([len(row) for row in rows])[:, None]
    column = torch.arange(longest)[None]
    mask = column >= longest - length if left else column < length
    return torch.tensor(ids), mask.long()
