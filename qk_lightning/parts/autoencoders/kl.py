"""The convolutional KL autoencoder of latent diffusion, as diffusers has it.

Not here: its training (the `autoencoder` system); scaled latents and tiles (diffusers_codec.py).
B batch, H x W pixels, h x w latent cells, C latent channels; H = stride * h.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from qk_lightning.parts.diffusers_codec import GaussianCodec


class KL(GaussianCodec):
    """Image codec with a Gaussian posterior (diffusers' AutoencoderKL).

    Latents are normalised: (raw - latents_mean) * scaling_factor / latents_std a channel where
    the config has them, as SDXL's pipelines read it, else (raw - shift_factor) * scaling_factor.
    A fresh codec has the identity.

    Args:
        path: Folder, `builtin:` name or hub id of a diffusers AutoencoderKL; its config.json then
            decides the architecture.
        subfolder: Folder inside `path`, such as `vae` where `path` is a whole pipeline's.
        block_out_channels: Channels a level, finest first; each level but the last halves the
            picture, so 4 levels make a stride of 8.
        layers_per_block: Residual blocks a level (the decoder has one more).
        latent_channels: Channels of a latent cell.
        norm_num_groups: Groups of the group norms; divides every entry of block_out_channels.
        mid_block_add_attention: Self-attention at the coarsest level.
        tile_size: Side in pixels of the tiles that larger pictures are cut into; null for none.
            Each tile has group norms of its own, so brightness may differ a little.

    Source: Rombach et al., arXiv 2112.10752, sec. 3.1; diffusers
        models/autoencoders/autoencoder_kl.py.
    """

    version = 1
    paths = ("path",)
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
        subfolder: str | None = None,
        block_out_channels: list[int] = [16, 32, 64, 128],  # noqa: B006 (read, never written)
        layers_per_block: int = 1,
        latent_channels: int = 24,
        norm_num_groups: int = 8,
        mid_block_add_attention: bool = False,
        tile_size: int | None = None,
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
        config = self.read_architecture(AutoencoderKL, path, given, fixed, subfolder)
        self.model = AutoencoderKL.from_config(config)
        self.latent_channels = self.model.config.latent_channels
        self.stride = 2 ** (len(self.model.config.block_out_channels) - 1)
        self.enable_tiles(tile_size)

    def shard_units(self) -> list[nn.Module]:
        """Blocks that FSDP shards one by one.

        Returns:
            The levels of the encoder and the decoder.
        """
        return [*self.model.encoder.down_blocks, *self.model.decoder.up_blocks]

    def set_statistics(self, mean: Sequence[float] | Tensor, std: Sequence[float] | Tensor) -> None:
        """Store the scale of the raw latents in the config; it is exported with it.

        Args:
            mean: [C].
            std: [C], positive.

        Raises:
            ValueError: Not C numbers each, or a std that is not positive.
        """
        super().set_statistics(mean, std)
        self.model.register_to_config(scaling_factor=1.0)  # that of the weights' own constants

    def _affine(self, like: Tensor) -> tuple[Tensor, Tensor]:
        shift, scale = super()._affine(like)
        config = self.model.config
        if config["latents_mean"] is None or config["latents_std"] is None:
            return shift, scale
        return shift, scale / (config.get("scaling_factor") or 1.0)

    def _enable_tiling(self, tile_size: int) -> None:
        self.model.enable_tiling()
        self.model.tile_sample_min_size = tile_size
        self.model.tile_latent_min_size = tile_size // self.stride


def _check_groups(block_out_channels: list[int], norm_num_groups: int) -> None:
    wrong = [channels for channels in block_out_channels if channels % norm_num_groups]
    if wrong:
        raise ValueError(
            f"norm_num_groups: {norm_num_groups} does not divide {wrong} of block_out_channels; "
            "choose a common divisor."
        )
