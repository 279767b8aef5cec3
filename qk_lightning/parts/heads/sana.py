"""Sana's linear diffusion transformer as a head, in diffusers' implementation.

Not here: slots for input pictures (channels.py). B batch, C latent channels, h x w latent cells,
L condition tokens of width Dc, N input pictures.
"""

from __future__ import annotations

from torch import Tensor, nn

from qk_lightning.parts.heads.channels import ChannelHead
from qk_lightning.parts.heads.options import check_counts


class Sana(ChannelHead):
    """Linear self-attention over the latents, cross-attention to the condition.

    Pictures enter as channels: `num_image_slots` of them at most, of the target's size, by a
    widened patch embedding. The model's time runs from 0 to 1000 (times the config's
    timestep_scale); sigma in [0, 1] is converted. It has no pooled text input.

    Args:
        path: Folder, `builtin:` name or hub id of a diffusers SanaTransformer2DModel; its
            config.json then decides the architecture.
        subfolder: The model's folder in `path`, where that is a whole pipeline: `transformer`.
        num_layers: Blocks.
        attention_head_dim: Width of a head of self-attention.
        num_attention_heads: Heads of self-attention; the head's width is their product.
        cross_attention_head_dim: Width of a head of cross-attention.
        num_cross_attention_heads: Heads of cross-attention.
        mlp_ratio: Width of the convolutional feed-forward network, against the head's.
        condition_size: Width of the condition, Dc.
        patch: Side of the square of latent cells that makes one token (Sana has 1).
        num_image_slots: Input pictures that fit: 1 for the source, 1 more for each reference.
        gradient_checkpointing: Recompute the blocks in the backward pass.
        latent_channels: Channels of a latent cell, C.

    Source: Xie et al., Sana, arXiv 2410.10629; diffusers models/transformers/sana_transformer.py.
    """

    version = 1
    wired = ("latent_channels",)
    paths = ("path",)
    lora_targets = ("to_q", "to_k", "to_v", "to_out.0")
    input_layer = "patch_embed.proj"
    config_names = {
        "num_layers": "num_layers",
        "attention_head_dim": "attention_head_dim",
        "num_attention_heads": "num_attention_heads",
        "cross_attention_head_dim": "cross_attention_head_dim",
        "num_cross_attention_heads": "num_cross_attention_heads",
        "mlp_ratio": "mlp_ratio",
        "condition_size": "caption_channels",
        "patch": "patch_size",
    }

    def __init__(
        self,
        *,
        path: str | None = None,
        subfolder: str | None = None,
        num_layers: int = 4,
        attention_head_dim: int = 16,
        num_attention_heads: int = 6,
        cross_attention_head_dim: int = 24,
        num_cross_attention_heads: int = 4,
        mlp_ratio: float = 2.5,
        condition_size: int = 128,
        patch: int = 1,
        num_image_slots: int = 0,
        gradient_checkpointing: bool = False,
        latent_channels: int,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        check_counts(self.hparams)
        from diffusers import SanaTransformer2DModel

        given = {key: self.hparams[key] for key in self.config_names}
        # Cross-attention reads projected captions, which have the head's own width.
        fixed = {"cross_attention_dim": num_attention_heads * attention_head_dim}
        config = self.read_widened(SanaTransformer2DModel, path, given, fixed)
        _check(config)
        self.model = SanaTransformer2DModel.from_config(config)
        _make_positions_real(self.model)
        self.condition_size: int = self.model.config.caption_channels
        self.cell_multiple = self.model.config.patch_size
        if self.num_image_slots:  # zero to begin with, so frozen they would hide the pictures
            self.lora_targets = (*self.lora_targets, self.input_layer)
        if gradient_checkpointing:
            self.model.enable_gradient_checkpointing()

    def shard_units(self) -> list[nn.Module]:
        """Blocks that FSDP shards one by one.

        Returns:
            The transformer's blocks.
        """
        return list(self.model.transformer_blocks)

    def predict(
        self,
        noisy_latents: Tensor,
        sigma: Tensor,
        condition: Tensor,
        condition_mask: Tensor,
        image_latents: Tensor | None,
        roles: tuple[str, ...],
    ) -> Tensor:
        """Attend over the latents with the pictures beside them as channels.

        As `DiffusionHead.predict`.
        """
        return self.model(
            hidden_states=self.join(noisy_latents, image_latents, roles),
            encoder_hidden_states=condition,
            encoder_attention_mask=None if bool(condition_mask.all()) else condition_mask,
            timestep=sigma.float() * 1000 * self.model.config.timestep_scale,
            return_dict=False,
        )[0]


def _make_positions_real(model: nn.Module) -> None:
    """Compute the table of positions off the meta device: no file holds it.

    Only the variants for the largest pictures have one (interpolation_scale in their config).
    """
    embed = model.patch_embed
    if getattr(embed, "pos_embed", None) is None or not embed.pos_embed.is_meta:
        return
    from diffusers.models.embeddings import get_2d_sincos_pos_embed

    table = get_2d_sincos_pos_embed(
        embed.pos_embed.shape[-1],
        int(embed.pos_embed.shape[1] ** 0.5),
        base_size=embed.base_size,
        interpolation_scale=embed.interpolation_scale,
        device="cpu",
        output_type="pt",
    )
    embed.pos_embed = table.float().unsqueeze(0)


def _check(config: dict) -> None:
    if config.get("guidance_embeds"):
        raise ValueError(
            "path: a Sana with guidance_embeds (Sana-Sprint) is distilled for another objective; "
            "take one without, such as Sana_1600M_512px_diffusers"
        )
