"""An image codec around one diffusers autoencoder: scaled latents, sizes, tiles.

Not here: which model, and its options (autoencoders/).
B batch, H x W pixels, h x w latent cells, C latent channels; H = stride * h.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from qk_lightning.parts.autoencoders.picture_size import check_size
from qk_lightning.parts.base import read_config, weights_dtype
from qk_lightning.parts.diffusers_part import DiffusersPart

if TYPE_CHECKING:
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

CONSTANTS = ("latents_mean", "latents_std", "shift_factor", "scaling_factor")
TILE_CELLS = 8  # a tile is a multiple of so many latent cells: a quarter of it overlaps


class DiffusersCodec(DiffusersPart):
    """A codec whose latents are scaled by the model's own constants.

    latents = (raw - latents_mean) / latents_std a channel where the config has them (KL's are
    scaled as well), else (raw - shift_factor) * scaling_factor.

    Attributes:
        latent_channels: Channels of a latent cell, C.
        stride: Pixels of a latent cell's side.
    """

    forward_methods = ("encode", "decode", "encode_raw")
    latent_channels: int
    stride: int

    def settings(self) -> dict[str, Any]:
        """Tell what decides this part's outputs besides its weights; where they lie does not.

        Returns:
            As in DiffusersPart; without `tile_size` where nothing is tiled.
        """
        return {k: v for k, v in super().settings().items() if k != "tile_size" or v is not None}

    def encode_raw(
        self, images: Tensor, sample: bool = False, generator: torch.Generator | None = None
    ) -> Tensor:
        """Encode pictures to what the model itself gives, before any scaling.

        Args:
            images: [B, 3, H, W] in [-1, 1], in the weights' dtype.
            sample: Draw from the posterior, where the model has one.
            generator: Source of the draw.

        Returns:
            Raw latents [B, C, h, w].
        """
        raise NotImplementedError

    def decode_raw(self, raw: Tensor) -> Tensor:
        """Decode what `encode_raw` gave.

        Args:
            raw: [B, C, h, w], in the weights' dtype.

        Returns:
            Images [B, 3, H, W].
        """
        return self.model.decode(raw).sample

    def encode(
        self, images: Tensor, sample: bool = False, generator: torch.Generator | None = None
    ) -> Tensor:
        """Encode pictures to normalised latents.

        Args:
            images: [B, 3, H, W] in [-1, 1]; H and W multiples of the stride.
            sample: Draw from the posterior instead of taking its mode; no effect on a model
                without one.
            generator: Source of the draw.

        Returns:
            Latents [B, C, h, w] in the images' dtype.

        Raises:
            ValueError: H or W is no multiple of the stride.
        """
        check_size(images, self.stride)
        raw = self.encode_raw(images.to(weights_dtype(self.model)), sample, generator)
        return self.normalise(raw.to(images.dtype))

    def decode(self, latents: Tensor) -> Tensor:
        """Decode normalised latents.

        Args:
            latents: [B, C, h, w].

        Returns:
            Images [B, 3, H, W] in the latents' dtype, about [-1, 1], not clamped.
        """
        raw = self.denormalise(latents).to(weights_dtype(self.model))
        return self.decode_raw(raw).to(latents.dtype)

    def forward(self, images: Tensor) -> Tensor:
        """Reconstruct pictures, through the posterior's mode where there is one.

        Args:
            images: [B, 3, H, W] in [-1, 1].

        Returns:
            Images [B, 3, H, W].
        """
        return self.decode(self.encode(images))

    def normalise(self, raw: Tensor) -> Tensor:
        """Bring raw latents to zero mean and unit variance.

        Args:
            raw: [B, C, h, w].

        Returns:
            Latents [B, C, h, w].
        """
        shift, scale = self._affine(raw)
        return (raw - shift) / scale

    def denormalise(self, latents: Tensor) -> Tensor:
        """Undo `normalise`.

        Args:
            latents: [B, C, h, w].

        Returns:
            Raw latents [B, C, h, w].
        """
        shift, scale = self._affine(latents)
        return latents * scale + shift

    def _affine(self, like: Tensor) -> tuple[Tensor, Tensor]:
        config = self.model.config
        if config.get("latents_mean") is not None and config.get("latents_std") is not None:
            shift, scale = config["latents_mean"], config["latents_std"]
        else:
            shift = [config.get("shift_factor") or 0.0]
            scale = [1.0 / config["scaling_factor"]]
        return tuple(like.new_tensor(list(values)).view(1, -1, 1, 1) for values in (shift, scale))

    def set_statistics(self, mean: Sequence[float] | Tensor, std: Sequence[float] | Tensor) -> None:
        """Store the scale of the raw latents in the config; it is exported with it.

        A mean and a deviation a channel where diffusers' config has a place for them; else one
        factor for all, 1 / root mean square over the shift, and one shift where it has that.

        Args:
            mean: [C].
            std: [C], positive.

        Raises:
            ValueError: Not C numbers each, or a std that is not positive.
        """
        mean, std = ([float(value) for value in values] for values in (mean, std))
        if len(mean) != self.latent_channels or len(std) != self.latent_channels or min(std) <= 0:
            raise ValueError(
                f"statistics: {len(mean)} means, {len(std)} stds, smallest {min(std, default=0)}; "
                f"expected {self.latent_channels} of each, stds above 0."
            )
        if "latents_mean" in self.model.config:
            self.model.register_to_config(latents_mean=mean, latents_std=std)
            return
        has_shift = "shift_factor" in self.model.config
        shift = sum(mean) / len(mean) if has_shift else 0.0
        power = sum(s**2 + (m - shift) ** 2 for m, s in zip(mean, std, strict=True)) / len(mean)
        constants = {"scaling_factor": power**-0.5}
        self.model.register_to_config(**constants, **({"shift_factor": shift} if has_shift else {}))

    def load_folder(self, folder: Path) -> None:
        """Load what `export` wrote: the weights, and the statistics in its config.

        Args:
            folder: A folder of this part.
        """
        super().load_folder(folder)
        config = read_config(folder)
        kept = [k for k in CONSTANTS if config.get(k) is not None and k in self.model.config]
        self.model.register_to_config(**{key: config[key] for key in kept})

    def enable_tiles(self, tile_size: int | None) -> None:
        """Cut larger pictures into tiles that overlap by a quarter, for less memory.

        Args:
            tile_size: Pixels of a tile's side; None for no tiles.

        Raises:
            ValueError: No multiple of 8 latent cells, or the model cannot be tiled.
        """
        if tile_size is None:
            return
        unit = TILE_CELLS * self.stride
        if tile_size < unit or tile_size % unit:
            nearest = max(unit, tile_size // unit * unit)
            raise ValueError(
                f"tile_size: {tile_size}, expected a multiple of {unit} pixels ({TILE_CELLS} "
                f"latent cells); set {nearest}."
            )
        self._enable_tiling(tile_size)

    def _enable_tiling(self, tile_size: int) -> None:
        step = tile_size * 3 // 4
        self.model.enable_tiling(
            tile_sample_min_height=tile_size,
            tile_sample_min_width=tile_size,
            tile_sample_stride_height=step,
            tile_sample_stride_width=step,
        )


class GaussianCodec(DiffusersCodec):
    """A codec whose encoder gives a Gaussian over raw latents."""

    forward_methods = ("encode", "decode", "encode_raw", "posterior")

    def posterior(self, images: Tensor) -> DiagonalGaussianDistribution:
        """Encode to the posterior over raw (not normalised) latents.

        Args:
            images: [B, 3, H, W] in [-1, 1].

        Returns:
            A Gaussian with `mean`, `logvar`, `sample()`, `mode()`, `kl()`, in the weights' dtype.
        """
        return self.model.encode(images.to(weights_dtype(self.model))).latent_dist

    def encode_raw(
        self, images: Tensor, sample: bool = False, generator: torch.Generator | None = None
    ) -> Tensor:
        """Encode pictures to the posterior's mode, or to a draw from it.

        Args:
            images: [B, 3, H, W] in [-1, 1].
            sample: Draw from the posterior.
            generator: Source of the draw.

        Returns:
            Raw latents [B, C, h, w].
        """
        posterior = self.posterior(images)
        return posterior.sample(generator) if sample else posterior.mode()
