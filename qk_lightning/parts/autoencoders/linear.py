"""A linear codec: each square of pixels becomes the principal components of such squares.

Small, sharp at edges and solved in closed form; a codec for small plain pictures, not for photos.
B batch, H x W pixels, h x w latent cells of patch x patch pixels, C latent channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from qk_lightning.parts.autoencoders.picture_size import check_size
from qk_lightning.parts.base import Part, find_folder, read_config, weights_dtype

SMALLEST_STD = 1e-4  # of a component, in units of pixel values: below, it is left as it is


class Linear(Part):
    """Project squares of pixels on their principal components, each of unit variance.

    latents = (pixels - mean) V / std,  pixels = latents * std V^T + mean, with V the first
    components [3 patch^2, C] of a square's covariance and std their standard deviations.

    Args:
        path: Folder or `builtin:` name of an exported codec; its config.json then decides `patch`
            and `latent_channels`.
        patch: Side of the square, in pixels: the stride.
        latent_channels: Components kept, C, at most 3 * patch^2.

    Raises:
        ValueError: More components than numbers in a square.
    """

    version = 1
    paths = ("path",)
    forward_methods = ("encode", "decode")

    def __init__(
        self, *, path: str | None = None, patch: int = 8, latent_channels: int = 24
    ) -> None:
        super().__init__()
        folder = None if path is None else find_folder(path)
        if folder is not None:
            config = read_config(folder)
            patch, latent_channels = config["patch"], config["latent_channels"]
        if not 1 <= latent_channels <= 3 * patch**2:
            raise ValueError(
                f"latent_channels: {latent_channels}, expected 1 to {3 * patch**2}, the numbers in "
                f"a square of {patch} x {patch} pixels."
            )
        self.save_hyperparameters(
            {"path": path, "patch": patch, "latent_channels": latent_channels}
        )
        self.latent_channels, self.stride = latent_channels, patch
        self.encoder = nn.Linear(3 * patch**2, latent_channels)
        self.decoder = nn.Linear(latent_channels, 3 * patch**2)

    def encode(
        self, images: Tensor, sample: bool = False, generator: torch.Generator | None = None
    ) -> Tensor:
        """Project pictures.

        Args:
            images: [B, 3, H, W] in [-1, 1]; H and W multiples of patch.
            sample: No effect: nothing is random here.
            generator: No effect.

        Returns:
            Latents [B, C, h, w] in the images' dtype.

        Raises:
            ValueError: H or W is no multiple of patch.
        """
        check_size(images, self.stride)
        cells = functional.pixel_unshuffle(images, self.stride).movedim(1, -1)
        latents = self.encoder(cells.to(weights_dtype(self.encoder)))
        return latents.movedim(-1, 1).to(images.dtype)

    def decode(self, latents: Tensor) -> Tensor:
        """Sum the components.

        Args:
            latents: [B, C, h, w].

        Returns:
            Images [B, 3, H, W] in the latents' dtype, about [-1, 1], not clamped.
        """
        cells = self.decoder(latents.movedim(1, -1).to(weights_dtype(self.decoder)))
        return functional.pixel_shuffle(cells.movedim(-1, 1), self.stride).to(latents.dtype)

    def forward(self, images: Tensor) -> Tensor:
        """Encode and decode.

        Args:
            images: [B, 3, H, W] in [-1, 1].

        Returns:
            Images [B, 3, H, W].
        """
        return self.decode(self.encode(images))

    @torch.no_grad()
    def fit_components(self, images: Tensor) -> None:
        """Solve for the weights: the principal components of the pictures' squares, in float64.

        Args:
            images: [N, 3, H, W] in [-1, 1]; more squares than 3 * patch^2.
        """
        cells = functional.pixel_unshuffle(images.double(), self.stride).movedim(1, -1)
        cells = cells.flatten(0, -2)
        mean = cells.mean(0)
        variances, vectors = torch.linalg.eigh(torch.cov(cells.T))
        # eigh sorts upwards; a component's sign is free, so its largest entry is made positive.
        vectors = vectors.flip(1)[:, : self.latent_channels]
        largest = vectors.abs().argmax(0)
        vectors = vectors * vectors.gather(0, largest[None]).sign()
        std = variances.flip(0)[: self.latent_channels].clamp_min(SMALLEST_STD**2).sqrt()
        self.encoder.weight.copy_((vectors / std).T)
        self.encoder.bias.copy_(-(mean @ vectors) / std)
        self.decoder.weight.copy_(vectors * std)
        self.decoder.bias.copy_(mean)
