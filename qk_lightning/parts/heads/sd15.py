"""The convolutional UNet of Stable Diffusion 1.5 as a head, in diffusers' implementation.

Not here: slots for input pictures (channels.py); the `ddpm` objective that this head was
pretrained with. B batch, C latent channels, h x w latent cells, L condition tokens of width Dc, N
input pictures.
"""

from __future__ import annotations

from torch import Tensor, nn

from qk_lightning.parts.heads.channels import ChannelHead
from qk_lightning.parts.heads.options import check_counts


class SD15(ChannelHead):
    """A UNet over the latents with cross-attention to the condition on all levels but the last.

    Pictures enter as channels: `num_image_slots` of them at most, of the target's size, by a
    widened input convolution (one slot is InstructPix2Pix's layout). The model's time is a whole
    number from 0 to 999: sigma in [0, 1] becomes round(1000 * sigma), so that sigma = timestep /
    1000 comes back exactly; under flow matching sigma is thereby rounded to a thousandth. It
    returns what it was trained on: noise or v under `ddpm`, the velocity under `flow_matching`.
    It has no pooled text input. Latents of any size fit: a level of odd size is rounded up.

    Args:
        path: Folder, `builtin:` name or hub id of a diffusers UNet2DConditionModel; its
            config.json then decides the architecture.
        subfolder: The model's folder in `path`, where that is a whole pipeline: `unet`.
        block_out_channels: Channels a level, finest first (SD1.5: 320, 640, 1280, 1280).
        layers_per_block: Residual blocks a level (the way up has one more).
        num_attention_heads: Attention heads on every level (SD1.5: 8).
        norm_num_groups: Groups of the group norms; divides every entry of block_out_channels.
        condition_size: Width of the condition, Dc (SD1.5: 768).
        num_image_slots: Input pictures that fit: 1 for the source, 1 more for each reference.
        gradient_checkpointing: Recompute the levels in the backward pass.
        latent_channels: Channels of a latent cell, C.

    Source: Rombach et al., arXiv 2112.10752, sec. 3.3; diffusers
        models/unets/unet_2d_condition.py.
    """

    version = 1
    wired = ("latent_channels",)
    paths = ("path",)
    lora_targets = ("to_q", "to_k", "to_v", "to_out.0")
    input_layer = "conv_in"
    config_names = {
        "block_out_channels": "block_out_channels",
        "layers_per_block": "layers_per_block",
        # Diffusers' name for it is historical: in this class it is a number of heads.
        "num_attention_heads": "attention_head_dim",
        "norm_num_groups": "norm_num_groups",
        "condition_size": "cross_attention_dim",
    }

    def __init__(
        self,
        *,
        path: str | None = None,
        subfolder: str | None = None,
        block_out_channels: list[int] = [48, 96],  # noqa: B006 (read, never written)
        layers_per_block: int = 1,
        num_attention_heads: int = 4,
        norm_num_groups: int = 16,
        condition_size: int = 128,
        num_image_slots: int = 0,
        gradient_checkpointing: bool = False,
        latent_channels: int,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        check_counts(self.hparams)
        from diffusers import UNet2DConditionModel

        given = {key: self.hparams[key] for key in self.config_names}
        attending = len(block_out_channels) - 1
        fixed = {
            "down_block_types": ["CrossAttnDownBlock2D"] * attending + ["DownBlock2D"],
            "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * attending,
        }
        if path is None:
            _check_channels(block_out_channels, norm_num_groups, num_attention_heads)
        config = self.read_widened(UNet2DConditionModel, path, given, fixed)
        _check(config)
        self.model = UNet2DConditionModel.from_config(config)
        self.condition_size: int = self.model.config.cross_attention_dim
        if self.num_image_slots:  # zero to begin with, so frozen they would hide the pictures
            self.lora_targets = (*self.lora_targets, self.input_layer)
        if gradient_checkpointing:
            self.model.enable_gradient_checkpointing()

    def shard_units(self) -> list[nn.Module]:
        """Blocks that FSDP shards one by one.

        Returns:
            The levels down, the middle, the levels up.
        """
        return [*self.model.down_blocks, self.model.mid_block, *self.model.up_blocks]

    def predict(
        self,
        noisy_latents: Tensor,
        sigma: Tensor,
        condition: Tensor,
        condition_mask: Tensor,
        image_latents: Tensor | None,
        roles: tuple[str, ...],
    ) -> Tensor:
        """Convolve the latents with the pictures beside them as channels: noise, v or velocity.

        As `DiffusionHead.predict`; sigma = timestep / 1000.
        """
        return self.model(
            self.join(noisy_latents, image_latents, roles),
            (sigma.float() * 1000).round().long(),
            encoder_hidden_states=condition,
            encoder_attention_mask=None if bool(condition_mask.all()) else condition_mask,
            return_dict=False,
        )[0]


def _check_channels(block_out_channels: list[int], groups: int, num_heads: int) -> None:
    for name, divisor in (("norm_num_groups", groups), ("num_attention_heads", num_heads)):
        wrong = [channels for channels in block_out_channels if channels % divisor]
        if wrong:
            raise ValueError(
                f"{name}: {divisor} does not divide {wrong} of block_out_channels; choose a "
                "common divisor."
            )


def _check(config: dict) -> None:
    for name in ("addition_embed_type", "class_embed_type", "encoder_hid_dim_type"):
        if config.get(name):
            raise ValueError(
                f"path: a UNet with {name} {config[name]!r} wants more inputs than a condition "
                "(SDXL's does); take one of SD1 or SD2, such as "
                "stable-diffusion-v1-5/stable-diffusion-v1-5"
            )
