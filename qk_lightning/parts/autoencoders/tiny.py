"""TAESD, the small distilled autoencoder, as diffusers has it: fast previews and small trials.

Not here: scaled latents and tiles (diffusers_codec.py).
B batch, H x W pixels, h x w latent cells, C latent channels; H = stride * h.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qk_lightning.parts.diffusers_codec import DiffusersCodec

TILED_CHANNELS = 4  # of latents; diffusers' tiled encoder takes no other number


class Tiny(DiffusersCodec):
    """Image codec of plain convolutions without a posterior (diffusers' AutoencoderTiny).

    latents = (raw - shift_factor) * scaling_factor. A fresh codec has the identity. The model's
    latent_magnitude and latent_shift are for storing latents as bytes and play no part here.

    Args:
        path: Folder, `builtin:` name or hub id of a diffusers AutoencoderTiny; its config.json
            then decides the architecture.
        subfolder: Folder inside `path`, such as `vae` where `path` is a whole pipeline's.
        block_out_channels: Channels a level, finest first; all alike, since a level takes its
            number from the one before. Each level but the last halves the picture.
        num_blocks: Residual blocks a level of the encoder, finest first; the decoder has the
            same in reverse.
        latent_channels: Channels of a latent cell.
        tile_size: Side in pixels of the tiles that larger pictures are cut into; null for none.

    Raises:
        ValueError: Lists of different lengths, channels that differ, or tiles for a codec that
            diffusers cannot tile.

    Source: diffusers models/autoencoders/autoencoder_tiny.py; github madebyollin/taesd.
    """

    version = 1
    paths = ("path",)
    config_names = {
        "block_out_channels": "encoder_block_out_channels",
        "num_blocks": "num_encoder_blocks",
        "latent_channels": "latent_channels",
    }

    def __init__(
        self,
        *,
        path: str | None = None,
        subfolder: str | None = None,
        block_out_channels: list[int] = [32, 32, 32, 32],  # noqa: B006 (read, never written)
        num_blocks: list[int] = [1, 1, 1, 1],  # noqa: B006
        latent_channels: int = 4,
        tile_size: int | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        from diffusers import AutoencoderTiny

        if path is None:
            _check(block_out_channels, num_blocks)
        given = {key: self.hparams[key] for key in self.config_names}
        fixed = {
            "decoder_block_out_channels": block_out_channels,
            "num_decoder_blocks": num_blocks[::-1],
        }
        config = self.read_architecture(AutoencoderTiny, path, given, fixed, subfolder)
        config.pop("block_out_channels", None)  # diffusers writes it and warns when it reads it
        self.model = AutoencoderTiny.from_config(config)
        self.latent_channels = self.model.config.latent_channels
        self.stride = 2 ** (len(self.model.config.encoder_block_out_channels) - 1)
        self.enable_tiles(tile_size)

    def encode_raw(
        self, images: Tensor, sample: bool = False, generator: torch.Generator | None = None
    ) -> Tensor:
        """Encode pictures.

        Args:
            images: [B, 3, H, W] in [-1, 1].
            sample: No effect: nothing is random here.
            generator: No effect.

        Returns:
            Raw latents [B, C, h, w].
        """
        return self.model.encode(images).latents

    def _enable_tiling(self, tile_size: int) -> None:
        if self.latent_channels != TILED_CHANNELS:
            raise ValueError(
                f"tile_size: {tile_size}, but diffusers tiles an AutoencoderTiny of "
                f"{TILED_CHANNELS} latent channels only and this has {self.latent_channels}; "
                "leave it out."
            )
        self.model.enable_tiling()
        self.model.spatial_scale_factor = self.stride
        self.model.tile_sample_min_size = tile_size
        self.model.tile_latent_min_size = tile_size // self.stride
        self.model.tile_overlap_factor = 0.25


def _check(channels: list[int], num_blocks: list[int]) -> None:
    if len(channels) != len(num_blocks) or len(set(channels)) != 1:
        raise ValueError(
            f"block_out_channels: {channels}, num_blocks: {num_blocks}; expected lists of one "
            "length, and the same channels at each level; for example [32, 32] and [1, 2]."
        )
