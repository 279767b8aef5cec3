"""Prompts become the token ids of a chat: layout, padding, and where the prompt stands.

Not here: pixels (`patches.py`, `tiles.py`), positions (the VLMs' own files).
Shapes: B samples; N images of each; S prefix positions, padded on the left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class ChatLayout:
    """A VLM's chat template for one question, without a system turn that it does not need.

    `user` + N x (`image_start` + `image` x tokens + `image_end`) + `before_prompt` + prompt +
    `assistant`; an answer ends with `end`.

    Args:
        user: What opens the user's turn.
        assistant: What closes it and opens the assistant's.
        end: The token that ends an answer.
        image: The token that stands for a piece of an image; "" for a model without eyes.
        image_start: Before an image.
        image_end: After an image.
        before_prompt: Between the images and the prompt, also where there is no image.
    """

    user: str
    assistant: str
    end: str
    image: str = ""
    image_start: str = ""
    image_end: str = ""
    before_prompt: str = ""


class Encoded(NamedTuple):
    """Prompts as token ids.

    Args:
        input_ids: [B, S] padded on the left.
        attention_mask: [B, S], 0 on the padding.
        prompt_mask: [B, S] bool, True on the prompts' own tokens.
        prompt_columns: First and last + 1 column that holds a prompt token of any sample.
        num_cut: Prompts that were longer than the limit.
    """

    input_ids: Tensor
    attention_mask: Tensor
    prompt_mask: Tensor
    prompt_columns: tuple[int, int]
    num_cut: int


def encode_prompts(
    tokenizer: Any,
    layout: ChatLayout,
    prompts: list[str],
    *,
    num_images: int,
    image_tokens: int,
    max_tokens: int,
) -> Encoded:
    """Turn prompts into the token ids of a chat up to the assistant's turn.

    The pieces are encoded apart, so that the prompt's tokens are known exactly, and a prompt that
    spells a special token is plain text.

    Args:
        tokenizer: Of the VLM.
        layout: Of its chat.
        prompts: B texts; an empty one is allowed.
        num_images: Images in front of each prompt.
        image_tokens: Tokens of an image.
        max_tokens: Longer prompts are cut.

    Returns:
        The prompts as ids.
    """
    image = f"{layout.image_start}{layout.image * image_tokens}{layout.image_end}"
    before = layout.user + image * num_images + layout.before_prompt
    head = tokenizer.encode(before, add_special_tokens=False)
    tail = tokenizer.encode(layout.assistant, add_special_tokens=False)
    encoded = encode_plain(tokenizer, prompts)
    rows = [head + row[:max_tokens] + tail for row in encoded]
    ids, mask = pad(rows, _padding(tokenizer), side="left")
    lengths = torch.tensor([len(row) for row in encoded])
    num_cut = int((lengths > max_tokens).sum())
    lengths = lengths.clamp(max=max_tokens)
    stop = ids.shape[1] - len(tail)
    column = torch.arange(ids.shape[1])
    is_prompt = (column < stop) & (column >= stop - lengths[:, None])
    return Encoded(ids, mask, is_prompt, (stop - max(1, int(lengths.max())), stop), num_cut)


def _padding(tokenizer: Any) -> int:
    """Return the id of the padding; it is masked, so any will do where a model has none."""
    known = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return next(number for number in known if number is not None)


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
