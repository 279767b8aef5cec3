"""The multimodal diffusion transformer of FLUX as a head, in diffusers' implementation.

Not here: positions (positions.py), tokens (tokens.py). B batch, C latent channels, h x w latent
cells, L condition tokens of width Dc, N input pictures, S image tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from torch import Tensor, nn

from qk_lightning.config.errors import ConfigError
from qk_lightning.parts.heads.base import DiffusionHead
from qk_lightning.parts.heads.condition import key_mask
from qk_lightning.parts.heads.options import axes_problem, channel_problem, check_counts
from qk_lightning.parts.heads.positions import image_positions
from qk_lightning.parts.heads.tokens import image_sequence, size_of, to_cells


class Flux(DiffusionHead):
    """Joint attention over condition, noisy latents and input pictures, all as tokens.

    Pictures enter as tokens: any number, of any size. The model's time runs from 0 to 1, as
    sigma. Of its text inputs only the token sequence is used: the pooled text vector is zero, and
    all condition tokens stand at position (0, 0, 0), as FLUX.1's. The guidance embedding of a
    guidance-distilled model (FLUX.1-dev, Kontext-dev) is fed the constant `guidance_embed`.

    Args:
        path: Folder, `builtin:` name or hub id of a diffusers FluxTransformer2DModel; its
            config.json then decides the architecture.
        subfolder: The model's folder in `path`, where that is a whole pipeline: `transformer`.
        num_layers: Blocks with two streams (condition and image).
        num_single_layers: Blocks with one stream.
        attention_head_dim: Width of an attention head.
        num_attention_heads: Attention heads; the head's width is their product.
        axes_dims_rope: Rotary channels for (index, row, column); they sum to attention_head_dim.
        condition_size: Width of the condition, Dc.
        positions: shifted tells source and references apart by place, axis pictures by the number
            on the first axis (as FLUX.1 Kontext); shared puts all pictures on the target's grid.
        patch: Side of the square of latent cells that makes one token (FLUX.1 has 2).
        guidance_embed: What a guidance-distilled model is told; 1 is no guidance. No effect on
            others.
        gradient_checkpointing: Recompute the blocks in the backward pass.
        latent_channels: Channels of a latent cell, C.

    Source: Black Forest Labs' FLUX.1; diffusers models/transformers/transformer_flux.py.
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
    config_names = {
        "num_layers": "num_layers",
        "num_single_layers": "num_single_layers",
        "attention_head_dim": "attention_head_dim",
        "num_attention_heads": "num_attention_heads",
        "axes_dims_rope": "axes_dims_rope",
        "condition_size": "joint_attention_dim",
    }

    def __init__(
        self,
        *,
        path: str | None = None,
        subfolder: str | None = None,
        num_layers: int = 2,
        num_single_layers: int = 2,
        attention_head_dim: int = 32,
        num_attention_heads: int = 4,
        axes_dims_rope: list[int] = [8, 12, 12],  # noqa: B006 (read, never written)
        condition_size: int = 128,
        positions: Literal["shifted", "shared", "axis"] = "shifted",
        patch: int = 1,
        guidance_embed: float = 1.0,
        gradient_checkpointing: bool = False,
        latent_channels: int,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        check_counts(self.hparams)
        from diffusers import FluxTransformer2DModel

        in_channels = latent_channels * patch**2
        given = {key: self.hparams[key] for key in self.config_names}
        # The pooled text input is always zero here, so a fresh head keeps it as small as it goes.
        fixed = {"in_channels": in_channels, "pooled_projection_dim": 1, "guidance_embeds": False}
        config = self.read_architecture(FluxTransformer2DModel, path, given, fixed, subfolder)
        _check(config, self.hparams)
        self.model = FluxTransformer2DModel.from_config(config)
        self.condition_size: int = self.model.config.joint_attention_dim
        self.positions, self.latent_channels = positions, latent_channels
        self.patch = self.cell_multiple = patch
        self.guidance_embed = guidance_embed
        if gradient_checkpointing:
            self.model.enable_gradient_checkpointing()

    def shard_units(self) -> list[nn.Module]:
        """Blocks that FSDP shards one by one.

        Returns:
            The two-stream blocks, then the one-stream blocks.
        """
        return [*self.model.transformer_blocks, *self.model.single_transformer_blocks]

    def predict(
        self,
        noisy_latents: Tensor,
        sigma: Tensor,
        condition: Tensor,
        condition_mask: Tensor,
        image_latents: Tensor | None,
        roles: tuple[str, ...],
    ) -> Tensor:
        """Attend over the target's tokens, then each input picture's.

        As `DiffusionHead.predict`; pictures may have a size of their own.
        """
        size, config = size_of(noisy_latents, self.patch), self.model.config
        tokens, image_size = image_sequence(noisy_latents, image_latents, self.patch)
        ids = image_positions(size, image_size, roles, self.positions).to(tokens.device)
        guidance = tokens.new_full((len(tokens),), self.guidance_embed)
        output = self.model(
            hidden_states=tokens,
            encoder_hidden_states=condition,
            pooled_projections=tokens.new_zeros(len(tokens), config.pooled_projection_dim),
            timestep=sigma.to(tokens.dtype),
            guidance=guidance if config.guidance_embeds else None,
            img_ids=ids,
            txt_ids=ids.new_zeros(condition.shape[1], 3),
            joint_attention_kwargs={
                "attention_mask": key_mask(condition_mask, num_after=tokens.shape[1])
            },
            return_dict=False,
        )[0]
        return to_cells(output[:, : size[0] * size[1]], size, self.patch)


def _check(config: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    found, patch, channels = config["in_channels"], options["patch"], options["latent_channels"]
    problems = [axes_problem(config["axes_dims_rope"], config["attention_head_dim"])]
    if found != channels * patch**2:
        wanted = f"a model that reads {channels} x patch {patch}^2 = {channels * patch**2} a token"
        problem = channel_problem(options, f"reads {found} channels a token", wanted)
        if side := next((n for n in range(1, 9) if found == channels * n**2), 0):
            problem = replace(problem, fix=f"set head.patch={side}")
        problems.append(problem)
    if wrong := [problem for problem in problems if problem]:
        raise ConfigError(wrong)
