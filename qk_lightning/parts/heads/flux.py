"""The multimodal diffusion transformer of FLUX as a head, in diffusers' implementation.

Not here: positions (positions.py). B batch, C latent channels, h x w latent cells, L condition
tokens of width Dc, N input pictures, S image tokens.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from qk_lightning.parts.base import weights_dtype
from qk_lightning.parts.diffusers_part import DiffusersPart
from qk_lightning.parts.heads.positions import image_positions


class Flux(DiffusersPart):
    """Joint attention over condition, noisy latents and input pictures, all as tokens.

    Args:
        path: Folder, `builtin:` name or hub id of a diffusers FluxTransformer2DModel; its
            config.json then decides the architecture.
        num_layers: Blocks with two streams (condition and image).
        num_single_layers: Blocks with one stream.
        attention_head_dim: Width of an attention head.
        num_attention_heads: Attention heads; the head's width is their product.
        axes_dims_rope: Rotary channels for (index, row, column); they sum to attention_head_dim.
        condition_size: Width of the condition, Dc.
        positions: shifted tells source and references apart by place; shared puts all pictures
            on the target's grid.
        patch: Side of the square of latent cells that makes one token (FLUX.1 has 2).
        gradient_checkpointing: Recompute the blocks in the backward pass.
        latent_channels: Channels of a latent cell, C.

    Source: Black Forest Labs' FLUX.1; diffusers models/transformers/transformer_flux.py.
    """

    version = 1
    wired = ("latent_channels",)
    paths = ("path",)
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
        num_layers: int = 2,
        num_single_layers: int = 2,
        attention_head_dim: int = 32,
        num_attention_heads: int = 4,
        axes_dims_rope: list[int] = [8, 12, 12],  # noqa: B006 (read, never written)
        condition_size: int = 128,
        positions: Literal["shifted", "shared"] = "shifted",
        patch: int = 1,
        gradient_checkpointing: bool = False,
        latent_channels: int,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        from diffusers import FluxTransformer2DModel

        in_channels = latent_channels * patch**2
        given = {key: self.hparams[key] for key in self.config_names}
        # The pooled text input is always zero here, so a fresh head keeps it as small as it goes.
        fixed = {"in_channels": in_channels, "pooled_projection_dim": 1, "guidance_embeds": False}
        config = self.read_architecture(FluxTransformer2DModel, path, given, fixed)
        _check(config, in_channels, latent_channels, patch)
        self.model = FluxTransformer2DModel.from_config(config)
        self.condition_size: int = self.model.config.joint_attention_dim
        self.positions, self.patch, self.latent_channels = positions, patch, latent_channels
        if gradient_checkpointing:
            self.model.enable_gradient_checkpointing()

    def shard_units(self) -> list[nn.Module]:
        """Blocks that FSDP shards one by one.

        Returns:
            The two-stream blocks, then the one-stream blocks.
        """
        return [*self.model.transformer_blocks, *self.model.single_transformer_blocks]

    def forward(
        self,
        noisy_latents: Tensor,
        sigma: Tensor,
        condition: Tensor,
        condition_mask: Tensor,
        image_latents: Tensor | None = None,
        roles: tuple[str, ...] = (),
    ) -> Tensor:
        """Predict the velocity; it is computed in the weights' dtype, whatever the inputs'.

        Args:
            noisy_latents: [B, C, h, w].
            sigma: [B] in [0, 1].
            condition: [B, L, Dc]; L may be 0.
            condition_mask: [B, L] bool, False where a token is padding.
            image_latents: [B, N, C, h', w'] of the input pictures, or None.
            roles: `source` or `reference` for each of the N pictures.

        Returns:
            velocity [B, C, h, w] in the dtype of `noisy_latents`.

        Raises:
            ValueError: As many roles as pictures are needed; see also `image_positions`.
        """
        dtype = weights_dtype(self.model)
        tokens, ids = self._image_tokens(noisy_latents, image_latents, roles)
        tokens, condition = tokens.to(dtype), condition.to(dtype)
        condition, condition_mask = _at_least_one(condition, condition_mask)
        pooled_size = self.model.config.pooled_projection_dim
        output = self.model(
            hidden_states=tokens,
            encoder_hidden_states=condition.masked_fill(~condition_mask[..., None], 0.0),
            pooled_projections=tokens.new_zeros(len(tokens), pooled_size),
            timestep=sigma.to(dtype),
            img_ids=ids,
            txt_ids=ids.new_zeros(condition.shape[1], 3),
            joint_attention_kwargs={"attention_mask": _key_mask(condition_mask, tokens.shape[1])},
            return_dict=False,
        )[0]
        size = self._size(noisy_latents)
        velocity = self._to_cells(output[:, : size[0] * size[1]], size)
        return velocity.to(noisy_latents.dtype)

    def _image_tokens(
        self, noisy_latents: Tensor, image_latents: Tensor | None, roles: tuple[str, ...]
    ) -> tuple[Tensor, Tensor]:
        """Line up the target's tokens, then each input picture's, with their positions."""
        num_images = 0 if image_latents is None else image_latents.shape[1]
        if num_images != len(roles):
            raise ValueError(f"roles: {roles} for {num_images} input pictures; give one for each.")
        tokens, size = self._to_tokens(noisy_latents), self._size(noisy_latents)
        if not num_images:
            return tokens, image_positions(size, size, (), self.positions).to(tokens.device)
        pictures = self._to_tokens(image_latents.flatten(0, 1))
        pictures = pictures.unflatten(0, (-1, num_images)).flatten(1, 2)
        ids = image_positions(size, self._size(image_latents), tuple(roles), self.positions)
        return torch.cat([tokens, pictures], dim=1), ids.to(tokens.device)

    def _size(self, latents: Tensor) -> tuple[int, int]:
        return latents.shape[-2] // self.patch, latents.shape[-1] // self.patch

    def _to_tokens(self, latents: Tensor) -> Tensor:
        return functional.pixel_unshuffle(latents, self.patch).flatten(2).transpose(1, 2)

    def _to_cells(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        return functional.pixel_shuffle(tokens.transpose(1, 2).unflatten(2, size), self.patch)


def _at_least_one(condition: Tensor, condition_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Give an empty condition one masked token: not every attention kernel takes none."""
    if condition.shape[1]:
        return condition, condition_mask
    return functional.pad(condition, (0, 0, 0, 1)), functional.pad(
        condition_mask, (0, 1), value=False
    )


def _key_mask(condition_mask: Tensor, num_image_tokens: int) -> Tensor | None:
    """Mask padding as keys in both kinds of blocks: [B, 1, 1, L + S], None where there is none."""
    if bool(condition_mask.all()):
        return None
    return functional.pad(condition_mask, (0, num_image_tokens), value=True)[:, None, None]


def _check(config: dict, in_channels: int, latent_channels: int, patch: int) -> None:
    problems = []
    if config["in_channels"] != in_channels:
        problems.append(
            f"path: its model reads {config['in_channels']} channels a token, the autoencoder "
            f"gives {latent_channels} x patch {patch}^2 = {in_channels}; change patch or either"
        )
    if config.get("guidance_embeds"):
        problems.append(
            "path: a guidance-distilled model (guidance_embeds) has no place for the guidance of "
            "this kit; take one without, such as FLUX.1-schnell"
        )
    axes = list(config["axes_dims_rope"])
    if len(axes) != 3 or sum(axes) != config["attention_head_dim"] or any(a % 2 for a in axes):
        problems.append(
            f"axes_dims_rope: {axes}, expected three even numbers that sum to attention_head_dim "
            f"= {config['attention_head_dim']}"
        )
    if problems:
        raise ValueError("; ".join(problems))
