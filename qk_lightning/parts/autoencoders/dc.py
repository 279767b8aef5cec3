"""The deep compression autoencoder of Sana, as diffusers has it.

Not here: scaled latents and tiles (diffusers_codec.py).
B batch, H x W pixels, h x w latent cells, C latent channels; H = stride * h.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qk_lightning.parts.diffusers_codec import DiffusersCodec

BLOCKS = ("ResBlock", "EfficientViTBlock")


class DC(DiffusersCodec):
    """Image codec with high compression and no posterior (diffusers' AutoencoderDC).

    latents = raw * scaling_factor. A fresh codec has a factor of 1.

    Args:
        path: Folder, `builtin:` name or hub id of a diffusers AutoencoderDC; its config.json then
            decides the architecture.
        subfolder: Folder inside `path`, such as `vae` where `path` is a whole pipeline's.
        block_out_channels: Channels a level, finest first; each level but the last halves the
            picture, so 4 levels make a stride of 8 and Sana's 6 one of 32.
        layers_per_block: Blocks a level, as many numbers as levels.
        block_types: Kind of block a level: ResBlock, or EfficientViTBlock (linear attention).
        latent_channels: Channels of a latent cell; divides the last of block_out_channels.
        attention_head_dim: Width of an attention head; divides the channels of a level with
            EfficientViTBlock.
        tile_size: Side in pixels of the tiles that larger pictures are cut into; null for none.

    Raises:
        ValueError: Lists of different lengths, or channels that the shortcuts cannot share out.

    Source: Chen et al., arXiv 2410.10733, sec. 3; diffusers
        models/autoencoders/autoencoder_dc.py.
    """

    version = 1
    paths = ("path",)
    config_names = {
        "block_out_channels": "encoder_block_out_channels",
        "layers_per_block": "encoder_layers_per_block",
        "block_types": "encoder_block_types",
        "latent_channels": "latent_channels",
        "attention_head_dim": "attention_head_dim",
    }

    def __init__(
        self,
        *,
        path: str | None = None,
        subfolder: str | None = None,
        block_out_channels: list[int] = [16, 32, 64, 64],  # noqa: B006 (read, never written)
        layers_per_block: list[int] = [1, 1, 1, 1],  # noqa: B006
        block_types: list[str] = ["ResBlock", "ResBlock", "ResBlock", "ResBlock"],  # noqa: B006
        latent_channels: int = 32,
        attention_head_dim: int = 32,
        tile_size: int | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        from diffusers import AutoencoderDC

        if path is None:
            _check(block_out_channels, layers_per_block, block_types, latent_channels)
        given = {key: self.hparams[key] for key in self.config_names}
        scales = [[5] if kind == "EfficientViTBlock" else [] for kind in block_types]
        fixed = {
            "decoder_block_out_channels": block_out_channels,
            "decoder_layers_per_block": layers_per_block,
            "decoder_block_types": block_types,
            "encoder_qkv_multiscales": scales,
            "decoder_qkv_multiscales": scales,
        }
        config = self.read_architecture(AutoencoderDC, path, given, fixed, subfolder)
        self.model = AutoencoderDC.from_config(config)
        self.latent_channels = self.model.config.latent_channels
        self.stride = self.model.spatial_compression_ratio
        self.enable_tiles(tile_size)

    def shard_units(self) -> list[nn.Module]:
        """Blocks that FSDP shards one by one.

        Returns:
            The levels of the encoder and the decoder.
        """
        return [*self.model.encoder.down_blocks, *self.model.decoder.up_blocks]

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
        return self.model.encode(images).latent


def _check(
    channels: list[int], layers: list[int], block_types: list[str], latent_channels: int
) -> None:
    if not len(channels) == len(layers) == len(block_types):
        raise ValueError(
            f"block_out_channels, layers_per_block, block_types: {len(channels)}, {len(layers)} "
            f"and {len(block_types)} entries; expected one of each a level."
        )
    if unknown := set(block_types) - set(BLOCKS):
        raise ValueError(f"block_types: {sorted(unknown)}, expected {' or '.join(BLOCKS)}.")
    # A shortcut averages groups of channels on the way down and repeats them on the way up.
    uneven = [
        (fine, coarse)
        for fine, coarse in zip(channels, channels[1:], strict=False)
        if 4 * fine % coarse or coarse % 4
    ]
    if uneven or channels[-1] % latent_channels:
        raise ValueError(
            f"block_out_channels: {channels}, latent_channels: {latent_channels}; expected each "
            "level's channels to be a multiple of 4 that divides 4 times those of the level "
            "before, and latent_channels to divide the last; for example [16, 32, 64, 64] and 32."
        )
