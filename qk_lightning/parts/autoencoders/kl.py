"""The convolutional KL autoencoder of latent diffusion, as diffusers has it.

Not here: its training (the `autoencoder` system).
B batch, H x W pixels, h x w latent cells, C latent channels; H = stride * h.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from qk_lightning.parts.base import read_config, weights_dtype
from qk_lightning.parts.diffusers_part import DiffusersPart

if TYPE_CHECKING:
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution


class KL(DiffusersPart):
    """Image codec with a Gaussian posterior (diffusers' AutoencoderKL).

    Latents are normalised: (raw - latents_mean) / latents_std a channel where the config has
    them, else (raw - shift_factor) * scaling_factor. A fresh codec has the identity.

    Args:
        path: Folder, `builtin:` name or hub id of a diffusers AutoencoderKL; its config.json then
            decides the architecture.
        block_out_channels: Channels a level, finest first; each level but the last halves the
            picture, so 4 levels make a stride of 8.
        layers_per_block: Residual blocks a level (the decoder has one more).
        latent_channels: Channels of a latent cell.
        norm_num_groups: Groups of the group norms; divides every entry of block_out_channels.
        mid_block_add_attention: Self-attention at the coarsest level.

    Source: Rombach et al., arXiv 2112.10752, sec. 3.1; diffusers
        models/autoencoders/autoencoder_kl.py.
    """

    version = 1
    paths = ("path",)
    forward_methods = ("encode", "decode", "posterior")
    config_names = {
        "block_out_channels": "block_out_channels",
        "layers_per_block": "layers_per_block",
        "latent_channels": "latent_channels",
        "norm_num_groups": "norm_num_groups",
        "mid_block_add_attention": "mid_block_add_attention",
    }

    def __init__(
        self,
        *,
        path: str | None = None,
        block_out_channels: list[int] = [16, 32, 64, 128],  # noqa: B006 (read, never written)
        layers_per_block: int = 1,
        latent_channels: int = 24,
        norm_num_groups: int = 8,
        mid_block_add_attention: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        from diffusers import AutoencoderKL

        given = {key: self.hparams[key] for key in self.config_names}
        num_levels = len(block_out_channels)
        fixed = {
            "down_block_types": ["DownEncoderBlock2D"] * num_levels,
            "up_block_types": ["UpDecoderBlock2D"] * num_levels,
            "scaling_factor": 1.0,
        }
        if path is None:
            _check_groups(block_out_channels, norm_num_groups)
        config = self.read_architecture(AutoencoderKL, path, given, fixed)
        self.model = AutoencoderKL.from_config(config)
        self.latent_channels: int = self.model.config.latent_channels
        self.stride: int = 2 ** (len(self.model.config.block_out_channels) - 1)

    def shard_units(self) -> list[nn.Module]:
        """Blocks that FSDP shards one by one.

        Returns:
            The levels of the encoder and the decoder.
        """
        return [*self.model.encoder.down_blocks, *self.model.decoder.up_blocks]

    def posterior(self, images: Tensor) -> DiagonalGaussianDistribution:
        """Encode to the posterior over raw (not normalised) latents.

        Args:
            images: [B, 3, H, W] in [-1, 1].

        Returns:
            A Gaussian with `mean`, `logvar`, `sample()`, `mode()`, `kl()`, in the weights' dtype.
        """
        return self.model.encode(images.to(weights_dtype(self.model))).latent_dist

    def encode(
        self, images: Tensor, sample: bool = False, generator: torch.Generator | None = None
    ) -> Tensor:
        """Encode pictures to normalised latents.

        Args:
            images: [B, 3, H, W] in [-1, 1]; H and W multiples of the stride.
            sample: Draw from the posterior instead of taking its mode.
            generator: Source of the draw.

        Returns:
            Latents [B, C, h, w] in the images' dtype.
        """
        posterior = self.posterior(images)
        raw = posterior.sample(generator) if sample else posterior.mode()
        return self.normalise(raw.to(images.dtype))

    def decode(self, latents: Tensor) -> Tensor:
        """Decode normalised latents.

        Args:
            latents: [B, C, h, w].

        Returns:
            Images [B, 3, H, W] in the latents' dtype, about [-1, 1], not clamped.
        """
        raw = self.denormalise(latents).to(weights_dtype(self.model))
        return self.model.decode(raw).sample.to(latents.dtype)

    def forward(self, images: Tensor) -> Tensor:
        """Reconstruct pictures through the posterior's mode.

        Args:
            images: [B, 3, H, W] in [-1, 1].

        Returns:
            Images [B, 3, H, W].
        """
        return self.decode(self.encode(images))

    def set_statistics(self, mean: Sequence[float] | Tensor, std: Sequence[float] | Tensor) -> None:
        """Store channel statistics of the raw latents in the config; they are exported with it.

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
        self.model.register_to_config(latents_mean=mean, latents_std=std)

    def load_folder(self, folder: Path) -> None:
        """Load what `export` wrote: the weights, and the statistics in its config.

        Args:
            folder: A folder of this part.
        """
        super().load_folder(folder)
        config = read_config(folder)
        if config.get("latents_mean") is not None:
            self.set_statistics(config["latents_mean"], config["latents_std"])

    def normalise(self, raw: Tensor) -> Tensor:
        """Bring raw latents to zero mean and unit variance a channel.

        Args:
            raw: [B, C, h, w] of the posterior.

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
        if config.latents_mean is not None and config.latents_std is not None:
            shift, scale = config.latents_mean, config.latents_std
        else:
            shift, scale = [config.shift_factor or 0.0], [1.0 / config.scaling_factor]
        return tuple(like.new_tensor(list(values)).view(1, -1, 1, 1) for values in (shift, scale))


def _check_groups(block_out_channels: list[int], norm_num_groups: int) -> None:
    wrong = [channels for channels in block_out_channels if channels % norm_num_groups]
    if wrong:
        raise ValueError(
            f"norm_num_groups: {norm_num_groups} does not divide {wrong} of block_out_channels; "
            "choose a common divisor."
        )
