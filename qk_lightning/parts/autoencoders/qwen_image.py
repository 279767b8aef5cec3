"""Qwen-Image's autoencoder, as diffusers has it: a video codec that is given single frames.

Not here: scaled latents and tiles (diffusers_codec.py).
B batch, H x W pixels, h x w latent cells, C latent channels; H = stride * h. The model's own
tensors have a time axis of length 1 after the channels; it is added and removed here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from qk_lightning.parts.base import weights_dtype
from qk_lightning.parts.diffusers_codec import GaussianCodec

if TYPE_CHECKING:
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution


class QwenImage(GaussianCodec):
    """Image codec with a Gaussian posterior (diffusers' AutoencoderKLQwenImage).

    latents = (raw - latents_mean) / latents_std a channel. A fresh codec has the identity, and no
    convolution in time: none of them sees a second frame.

    Args:
        path: Folder, `builtin:` name or hub id of a diffusers AutoencoderKLQwenImage; its
            config.json then decides the architecture.
        subfolder: Folder inside `path`, such as `vae` where `path` is a whole pipeline's.
        base_dim: Channels of the finest level.
        dim_mult: Channels a level as multiples of base_dim, finest first; each level but the last
            halves the picture, so 4 levels make a stride of 8.
        num_res_blocks: Residual blocks a level (the decoder has one more).
        latent_channels: Channels of a latent cell.
        tile_size: Side in pixels of the tiles that larger pictures are cut into; null for none.

    Source: Wu et al., arXiv 2508.02324, sec. 2.3; diffusers
        models/autoencoders/autoencoder_kl_qwenimage.py.
    """

    version = 1
    paths = ("path",)
    config_names = {
        "base_dim": "base_dim",
        "dim_mult": "dim_mult",
        "num_res_blocks": "num_res_blocks",
        "latent_channels": "z_dim",
    }

    def __init__(
        self,
        *,
        path: str | None = None,
        subfolder: str | None = None,
        base_dim: int = 16,
        dim_mult: list[int] = [1, 2, 4, 4],  # noqa: B006 (read, never written)
        num_res_blocks: int = 1,
        latent_channels: int = 16,
        tile_size: int | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        from diffusers import AutoencoderKLQwenImage

        given = {key: self.hparams[key] for key in self.config_names}
        fixed = {
            "temperal_downsample": [False] * (len(dim_mult) - 1),
            "latents_mean": [0.0] * latent_channels,
            "latents_std": [1.0] * latent_channels,
        }
        config = self.read_architecture(AutoencoderKLQwenImage, path, given, fixed, subfolder)
        self.model = AutoencoderKLQwenImage.from_config(config)
        self.latent_channels = self.model.config.z_dim
        self.stride = self.model.spatial_compression_ratio
        self.enable_tiles(tile_size)

    def shard_units(self) -> list[nn.Module]:
        """Blocks that FSDP shards one by one.

        Returns:
            The blocks of the encoder and the levels of the decoder.
        """
        return [*self.model.encoder.down_blocks, *self.model.decoder.up_blocks]

    def posterior(self, images: Tensor) -> DiagonalGaussianDistribution:
        """Encode to the posterior over raw (not normalised) latents.

        Args:
            images: [B, 3, H, W] in [-1, 1].

        Returns:
            A Gaussian with `mean`, `logvar`, `sample()`, `mode()`, `kl()`, in the weights' dtype,
            without the time axis.
        """
        from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

        frames = images.to(weights_dtype(self.model)).unsqueeze(2)
        return DiagonalGaussianDistribution(
            self.model.encode(frames).latent_dist.parameters.squeeze(2)
        )

    def decode_raw(self, raw: Tensor) -> Tensor:
        """Decode raw latents; diffusers clamps pictures that are not tiled to [-1, 1].

        Args:
            raw: [B, C, h, w], in the weights' dtype.

        Returns:
            Images [B, 3, H, W].
        """
        return self.model.decode(raw.unsqueeze(2)).sample.squeeze(2)
