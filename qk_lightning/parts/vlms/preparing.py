"""From prompts and images to the prefix that a VLM reads, with the mistakes that show here.

Not here: the chat layout and token ids of prompts alone (`prompts.py`); pixels and positions,
which are a model's own.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from torch import Tensor

from qk_lightning.config.errors import ConfigError, Problem
from qk_lightning.parts.vlms.inputs import VLMInputs
from qk_lightning.parts.vlms.prompts import encode_prompts

if TYPE_CHECKING:
    from qk_lightning.parts.vlms.base import VLMPart


def prepare(vlm: VLMPart, prompts: list[str], images: Tensor | None) -> VLMInputs:
    """Do what `VLMPart.prepare` says.

    Args:
        vlm: Its tokenizer, layout and eyes.
        prompts: B texts.
        images: [B, N, 3, H, W] in [-1, 1], or None.

    Returns:
        Inputs on the part's device.

    Raises:
        ConfigError: A VLM that reads no images was given some.
        ValueError: Another number of images than of prompts; a tokenizer without image tokens.
    """
    num_images = 0 if images is None else images.shape[1]
    pictures = None
    if images is not None and num_images:
        _check_images(vlm, prompts, images)
        pictures = vlm.pictures(images.to(vlm.weights_device))
    encoded = encode_prompts(
        vlm.tokenizer,
        vlm.layout,
        prompts,
        num_images=num_images,
        image_tokens=pictures.num_tokens if pictures else 0,
        max_tokens=vlm.hparams.max_prompt_tokens,
    )
    _warn_of_cuts(vlm, encoded.num_cut, len(prompts))
    made = VLMInputs(
        position_ids=vlm.positions(encoded.input_ids, encoded.attention_mask, pictures),
        pixel_values=pictures.pixel_values if pictures else None,
        image_grid_thw=pictures.grid_thw if pictures else None,
        image_size=pictures.image_size if pictures else None,
        **encoded._asdict(),
    )
    if images is not None and pictures:
        _check_placeholders(vlm, made.input_ids, images.shape[:2].numel() * pictures.num_tokens)
    return made.to(vlm.weights_device)


def _check_images(vlm: VLMPart, prompts: list[str], images: Tensor) -> None:
    if not vlm.reads_images:
        expected = f"none, as {type(vlm).__name__} reads text alone"
        fix = "leave them out, or train with a vlm that sees, such as vlm=qwen2_5_vl"
        raise ConfigError(Problem("images", images.shape[1], expected, fix))
    if len(images) != len(prompts):
        raise ValueError(
            f"images: {len(images)} rows, expected one for each of {len(prompts)} prompts; "
            "pass [B, N, 3, H, W]."
        )


def _check_placeholders(vlm: VLMPart, ids: Tensor, wanted: int) -> None:
    found = int((ids == vlm.model.config.image_token_id).sum())
    if found != wanted:
        raise ValueError(
            f"vlm.path: the tokenizer of {vlm.source!r} makes {found} image tokens of "
            f"{wanted} {vlm.layout.image!r}; it has no such token, or config.json gives it "
            "another id. Bring the checkpoint's own tokenizer."
        )


def _warn_of_cuts(vlm: VLMPart, num_cut: int, num_prompts: int) -> None:
    if num_cut and not vlm.has_warned:
        vlm.has_warned = True
        warnings.warn(
            f"{num_cut} of {num_prompts} prompts are cut to {vlm.hparams.max_prompt_tokens} "
            "tokens; raise vlm.max_prompt_tokens to keep them whole.",
            stacklevel=4,  # who called the part's `prepare`
        )
