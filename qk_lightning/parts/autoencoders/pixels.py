"""Pixels themselves as latents: an exact codec without weights, for controls and tests.

B batch, H x W pixels, h x w latent cells of patch x patch pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from qk_lightning.parts.autoencoders.picture_size import check_size
from qk_lightning.parts.base import Part


class Pixels(Part):
    """Fold each square of pixels into the channels of one latent cell.

    Args:
        patch: Side of the square, in pixels; a cell has 3 * patch^2 channels.
        scale: Factor on the values (pictures in [-1, 1] have a deviation below 1).
    """

    version = 1
    forward_methods = ("encode", "decode")

    def __init__(self, *, patch: int = 2, scale: float = 1.0) -> None:
        super().__init__()
        self.save_hyperparameters()
        if patch < 1 or scale == 0:
            raise ValueError(f"patch: {patch}, scale: {scale}; expected 1 or more, and not 0.")
        self.patch, self.scale = patch, scale
        self.latent_channels: int = 3 * patch**2
        self.stride: int = patch

    def encode(
        self, images: Tensor, sample: bool = False, generator: torch.Generator | None = None
    ) -> Tensor:
        """Fold pictures into latents.

        Args:
            images: [B, 3, H, W] in [-1, 1]; H and W multiples of patch.
            sample: No effect: nothing is random here.
            generator: No effect.

        Returns:
            Latents [B, C, h, w].

        Raises:
            ValueError: H or W is no multiple of patch.
        """
        check_size(images, self.stride)
        return functional.pixel_unshuffle(images, self.patch) * self.scale

    def decode(self, latents: Tensor) -> Tensor:
        """Unfold latents into pictures, the exact inverse of `encode`.

        Args:
            latents: [B, C, h, w].

        Returns:
            Images [B, 3, H, W].
        """
        return functional.pixel_shuffle(latents / self.scale, self.patch)

    def forward(self, images: Tensor) -> Tensor:
        """Encode and decode.

        Args:
            images: [B, 3, H, W] in [-1, 1].

        Returns:
            The same images.
        """
        return self.decode(self.encode(images))
