"""The multimodal diffusion transformer of Stable Diffusion 3 as a head, in diffusers' version.

Not here: slots for input pictures (channels.py). B batch, C latent channels, h x w latent cells,
L condition tokens of width Dc, N input pictures, S image tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from qk_lightning.parts.heads.channels import ChannelHead
from qk_lightning.parts.heads.condition import key_mask
from qk_lightning.parts.heads.options import check_counts


class SD3(ChannelHead):
    """Joint attention over condition and latents, with a fixed table of positions.

    Pictures enter as channels: `num_image_slots` of them at most, of the target's size, by a
    widened patch embedding. The model's time runs from 0 to 1000; sigma in [0, 1] is converted.
    Its pooled text input is zero: the condition is the token sequence alone. Diffusers' attention
    for this model takes no mask; `MaskedJointAttention` here does.

    Args:
        path: Folder, `builtin:` name or hub id of a diffusers SD3Transformer2DModel; its
            config.json then decides the architecture.
        subfolder: The model's folder in `path`, where that is a whole pipeline: `transformer`.
        num_layers: Blocks; the last one does not write to the condition.
        attention_head_dim: Width of an attention head.
        num_attention_heads: Attention heads; the head's width is their product.
        dual_attention_layers: Blocks with a second attention over the latents alone (SD3.5-medium
            has 0 to 12).
        qk_norm: Norm of queries and keys: rms_norm as SD3.5, or null as SD3.
        condition_size: Width of the condition, Dc.
        patch: Side of the square of latent cells that makes one token (SD3 has 2).
        pos_embed_max_size: Longest side in tokens; the table of positions has its square.
        num_image_slots: Input pictures that fit: 1 for the source, 1 more for each reference.
        gradient_checkpointing: Recompute the blocks in the backward pass.
        latent_channels: Channels of a latent cell, C.

    Source: Esser et al., arXiv 2403.03206; diffusers models/transformers/transformer_sd3.py.
    """

    version = 1
    wired = ("latent_channels",)
    paths = ("path",)
    idle = ("time_text_embed.text_embedder.linear_1.weight",)  # of the pooled text, zero
    lora_targets = (
        "to_q",
        "to_k",
        "to_v",
        "to_out.0",
        "add_q_proj",
        "add_k_proj",
        "add_v_proj",
        "to_add_out",
    )
    input_layer = "pos_embed.proj"
    config_names = {
        "num_layers": "num_layers",
        "attention_head_dim": "attention_head_dim",
        "num_attention_heads": "num_attention_heads",
        "dual_attention_layers": "dual_attention_layers",
        "qk_norm": "qk_norm",
        "condition_size": "joint_attention_dim",
        "patch": "patch_size",
        "pos_embed_max_size": "pos_embed_max_size",
    }

    def __init__(
        self,
        *,
        path: str | None = None,
        subfolder: str | None = None,
        num_layers: int = 4,
        attention_head_dim: int = 32,
        num_attention_heads: int = 4,
        dual_attention_layers: list[int] = [],  # noqa: B006 (read, never written)
        qk_norm: str | None = "rms_norm",
        condition_size: int = 128,
        patch: int = 1,
        pos_embed_max_size: int = 32,
        num_image_slots: int = 0,
        gradient_checkpointing: bool = False,
        latent_channels: int,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        check_counts(self.hparams)
        from diffusers import SD3Transformer2DModel

        if any(layer >= num_layers for layer in dual_attention_layers):
            raise ValueError(
                f"dual_attention_layers: {dual_attention_layers}, expected blocks from 0 to "
                f"{num_layers - 1}."
            )
        given = {key: self.hparams[key] for key in self.config_names}
        fixed = {
            "sample_size": pos_embed_max_size * patch,
            "caption_projection_dim": num_attention_heads * attention_head_dim,
            # The pooled text input is always zero here: a fresh head keeps it small.
            "pooled_projection_dim": 1,
        }
        config = self.read_widened(SD3Transformer2DModel, path, given, fixed)
        self.model = SD3Transformer2DModel.from_config(config)
        self.model.set_attn_processor(MaskedJointAttention())
        self.condition_size: int = self.model.config.joint_attention_dim
        self.cell_multiple = self.model.config.patch_size
        self.max_cells = self.model.config.pos_embed_max_size * self.cell_multiple
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

    def unread(self) -> list[nn.Module]:
        """Modules whose output never reaches the velocity.

        Returns:
            What asks for the condition in the last block, whose answer is dropped.
        """
        attention = self.model.transformer_blocks[-1].attn
        return [m for m in (attention.add_q_proj, attention.norm_added_q) if m is not None]

    def predict(
        self,
        noisy_latents: Tensor,
        sigma: Tensor,
        condition: Tensor,
        condition_mask: Tensor,
        image_latents: Tensor | None,
        roles: tuple[str, ...],
    ) -> Tensor:
        """Attend over condition and latents, with the pictures beside them as channels.

        As `DiffusionHead.predict`.
        """
        entered = self.join(noisy_latents, image_latents, roles)
        num_tokens = entered.shape[-2] * entered.shape[-1] // self.cell_multiple**2
        pooled_size = self.model.config.pooled_projection_dim
        return self.model(
            hidden_states=entered,
            encoder_hidden_states=condition,
            pooled_projections=entered.new_zeros(len(entered), pooled_size),
            timestep=sigma.float() * 1000,
            joint_attention_kwargs={"attention_mask": key_mask(condition_mask, num_tokens)},
            return_dict=False,
        )[0]


class MaskedJointAttention:
    """Attention of SD3's blocks, as diffusers computes it, with padding masked as keys.

    The order is latents, then condition. The second attention of a dual block has no condition
    and needs no mask.
    """

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Attend.

        Args:
            attn: The block's Attention, which owns the weights.
            hidden_states: [B, S, D] of the latents.
            encoder_hidden_states: [B, L, D] of the condition, or None.
            attention_mask: [B, 1, 1, S + L] bool, or None where nothing is masked.

        Returns:
            [B, S, D], and [B, L, D] where there is a condition.
        """
        layers = (attn.to_q, attn.to_k, attn.to_v), (attn.norm_q, attn.norm_k, None)
        triple = _projected(hidden_states, attn.heads, *layers)
        if encoder_hidden_states is None:
            attended = functional.scaled_dot_product_attention(*triple)
            return attn.to_out[0](_merged(attended))
        layers = (
            (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj),
            (attn.norm_added_q, attn.norm_added_k, None),
        )
        added = _projected(encoder_hidden_states, attn.heads, *layers)
        joint = [torch.cat(pair, dim=2) for pair in zip(triple, added, strict=True)]
        attended = functional.scaled_dot_product_attention(*joint, attn_mask=attention_mask)
        latents, condition = _merged(attended).tensor_split([hidden_states.shape[1]], dim=1)
        if not attn.context_pre_only:
            condition = attn.to_add_out(condition)
        return attn.to_out[0](latents), condition


def _projected(states: Tensor, num_heads: int, layers: Any, norms: Any) -> list[Tensor]:
    """Project [B, S, D] to queries, keys and values [B, heads, S, D / heads]."""
    projected = []
    for layer, norm in zip(layers, norms, strict=True):
        split = layer(states).unflatten(-1, (num_heads, -1)).transpose(1, 2)
        projected.append(split if norm is None else norm(split))
    return projected


def _merged(attended: Tensor) -> Tensor:
    return attended.transpose(1, 2).flatten(2)
