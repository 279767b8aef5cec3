"""Latents as tokens of a sequence: the target's, then those of each input picture.

Not here: where the tokens stand (positions.py). B batch, C latent channels, h x w latent cells,
p side of a patch, N input pictures, S tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from qk_lightning.parts.heads.positions import Size


def to_tokens(latents: Tensor, patch: int) -> Tensor:
    """Cut latents into tokens, row by row.

    Args:
        latents: [B, C, h, w].
        patch: p; h and w are multiples of it.

    Returns:
        [B, h * w / p^2, C * p^2], a token's numbers in the order (channel, row, column).
    """
    return functional.pixel_unshuffle(latents, patch).flatten(2).transpose(1, 2)


def to_cells(tokens: Tensor, size: Size, patch: int) -> Tensor:
    """Undo `to_tokens`.

    Args:
        tokens: [B, S, C * p^2].
        size: Rows and columns of tokens; their product is S.
        patch: p.

    Returns:
        [B, C, h, w].
    """
    return functional.pixel_shuffle(tokens.transpose(1, 2).unflatten(2, size), patch)


def size_of(latents: Tensor, patch: int) -> Size:
    """Count the tokens of a picture.

    Args:
        latents: [..., h, w].
        patch: p.

    Returns:
        Rows and columns.
    """
    return latents.shape[-2] // patch, latents.shape[-1] // patch


def image_sequence(
    noisy_latents: Tensor, image_latents: Tensor | None, patch: int
) -> tuple[Tensor, Size]:
    """Line up the target's tokens, then each input picture's.

    Args:
        noisy_latents: [B, C, h, w].
        image_latents: [B, N, C, h', w'] in the same dtype, or None.
        patch: p.

    Returns:
        [B, S, C * p^2], and the rows and columns of an input picture (the target's without one).
    """
    tokens = to_tokens(noisy_latents, patch)
    if image_latents is None or not image_latents.shape[1]:
        return tokens, size_of(noisy_latents, patch)
    pictures = to_tokens(image_latents.flatten(0, 1), patch)
    pictures = pictures.unflatten(0, (-1, image_latents.shape[1])).flatten(1, 2)
    return torch.cat([tokens, pictures], dim=1), size_of(image_latents, patch)
