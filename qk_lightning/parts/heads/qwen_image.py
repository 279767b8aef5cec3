"""Qwen-Image's multimodal diffusion transformer as a head, in diffusers' implementation.

Not here: positions of pictures (positions.py), tokens (tokens.py). B batch, C latent channels,
h x w latent cells, L condition tokens of width Dc, N input pictures, S image tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from qk_lightning.config.errors import ConfigError, Problem
from qk_lightning.parts.heads.base import DiffusionHead
from qk_lightning.parts.heads.condition import padding_last
from qk_lightning.parts.heads.options import axes_problem, channel_problem, check_counts
from qk_lightning.parts.heads.positions import centred_positions
from qk_lightning.parts.heads.tokens import image_sequence, size_of, to_cells

# Variants that read the time or the positions in another way; their weights would be misread.
UNSUPPORTED = ("guidance_embeds", "zero_cond_t", "use_additional_t_cond", "use_layer3d_rope")


class QwenImage(DiffusionHead):
    """Joint attention over condition, noisy latents and input pictures, all as tokens.

    Pictures enter as tokens: any number, of any size. The model's time runs from 0 to 1, as
    sigma. It has no pooled text input.

    Positions: the model's own scheme centres rows and columns of every picture on 0 and counts
    pictures on the first axis; condition token t stands at (m + t, m + t, m + t) for m = half the
    longest side in tokens of any picture. `axis` is exactly that. Under `shifted` and `shared` the
    distances between pictures are those of positions.py, everything is centred on the target, and
    m is the target's, so that pictures added do not move the condition.

    Args:
        path: Folder, `builtin:` name or hub id of a diffusers QwenImageTransformer2DModel; its
            config.json then decides the architecture.
        subfolder: The model's folder in `path`, where that is a whole pipeline: `transformer`.
        num_layers: Blocks.
        attention_head_dim: Width of an attention head.
        num_attention_heads: Attention heads; the head's width is their product.
        axes_dims_rope: Rotary channels for (index, row, column); they sum to attention_head_dim.
        condition_size: Width of the condition, Dc.
        positions: axis numbers the pictures, as Qwen-Image-Edit; shifted tells source and
            references apart by place; shared puts all pictures on the target's grid.
        patch: Side of the square of latent cells that makes one token (Qwen-Image has 2).
        gradient_checkpointing: Recompute the blocks in the backward pass.
        latent_channels: Channels of a latent cell, C.

    Source: Qwen-Image, arXiv 2508.02324; diffusers models/transformers/transformer_qwenimage.py.
    """

    version = 1
    wired = ("latent_channels",)
    paths = ("path",)
    lora_targets = ("to_q", "to_k", "to_v", "to_out.0", "add_k_proj", "add_v_proj")
    config_names = {
        "num_layers": "num_layers",
        "attention_head_dim": "attention_head_dim",
        "num_attention_heads": "num_attention_heads",
        "axes_dims_rope": "axes_dims_rope",
        "condition_size": "joint_attention_dim",
        "patch": "patch_size",
    }

    def __init__(
        self,
        *,
        path: str | None = None,
        subfolder: str | None = None,
        num_layers: int = 2,
        attention_head_dim: int = 32,
        num_attention_heads: int = 4,
        axes_dims_rope: list[int] = [8, 12, 12],  # noqa: B006 (read, never written)
        condition_size: int = 128,
        positions: Literal["shifted", "shared", "axis"] = "shifted",
        patch: int = 1,
        gradient_checkpointing: bool = False,
        latent_channels: int,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        check_counts(self.hparams)
        from diffusers import QwenImageTransformer2DModel

        given = {key: self.hparams[key] for key in self.config_names}
        fixed = {"in_channels": latent_channels * patch**2, "out_channels": latent_channels}
        config = self.read_architecture(QwenImageTransformer2DModel, path, given, fixed, subfolder)
        _check(config, self.hparams)
        self.model = QwenImageTransformer2DModel.from_config(config)
        # Diffusers' own table is no buffer: built on the meta device it would stay there.
        self.model.pos_embed = ComputedRotary(list(self.model.config.axes_dims_rope))
        self.condition_size: int = self.model.config.joint_attention_dim
        self.positions, self.latent_channels = positions, latent_channels
        self.patch = self.cell_multiple = self.model.config.patch_size
        but_last = [f"transformer_blocks.{i}.attn" for i in range(len(self.shard_units()) - 1)]
        read = [f"{name}.{layer}" for name in but_last for layer in ("add_q_proj", "to_add_out")]
        self.lora_targets = (*self.lora_targets, *read)
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
            What writes to the condition in the last block, after which nobody reads it.
        """
        block = self.model.transformer_blocks[-1]
        asks = [block.attn.add_q_proj, block.attn.norm_added_q, block.attn.to_add_out]
        return [*asks, block.txt_mlp]

    def predict(
        self,
        noisy_latents: Tensor,
        sigma: Tensor,
        condition: Tensor,
        condition_mask: Tensor,
        image_latents: Tensor | None,
        roles: tuple[str, ...],
    ) -> Tensor:
        """Attend over condition, target and pictures, whose sizes may be their own.

        As `DiffusionHead.predict`. Condition tokens are numbered from the first that is not
        padding: padding is moved behind them, or on the left it would shift their positions.
        """
        size = size_of(noisy_latents, self.patch)
        tokens, image_size = image_sequence(noisy_latents, image_latents, self.patch)
        if padded := not bool(condition_mask.all()):
            condition, condition_mask = padding_last(condition, condition_mask)
        places = centred_positions(size, image_size, roles, self.positions)
        half = max(*size, *image_size) // 2 if self.positions == "axis" else max(size) // 2
        output = self.model(
            hidden_states=tokens,
            encoder_hidden_states=condition,
            encoder_hidden_states_mask=condition_mask if padded else None,
            timestep=sigma.to(tokens.dtype),
            img_shapes=(places, half),
            return_dict=False,
        )[0]
        return to_cells(output[:, : size[0] * size[1]], size, self.patch)


class ComputedRotary(nn.Module):
    """Qwen-Image's rotary factors for given positions, in place of diffusers' table of sizes.

    exp(i * position * theta^(-2k / d)) for channel pair k of an axis of d channels.

    Args:
        axes_dims: Channels of the three axes.
        theta: Longest wavelength.
    """

    def __init__(self, axes_dims: list[int], theta: float = 10000.0) -> None:
        super().__init__()
        self.axes_dims, self.theta = axes_dims, theta

    def forward(
        self, layout: tuple[Tensor, int], max_txt_seq_len: int, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Compute the factors, as the model's own `pos_embed` is called.

        Args:
            layout: Positions [S, 3] of the image tokens, and that of the first condition token on
                all axes; the model hands on what it is given as `img_shapes`.
            max_txt_seq_len: L.
            device: Where they are needed.

        Returns:
            Complex [S, d / 2] and [L, d / 2], d the width of an attention head.
        """
        places, first = layout
        text = torch.arange(first, first + int(max_txt_seq_len), device=device)
        return self._factors(places.to(device)), self._factors(text[:, None].expand(-1, 3))

    def _factors(self, places: Tensor) -> Tensor:
        angles = []
        for axis, channels in enumerate(self.axes_dims):
            pairs = torch.arange(0, channels, 2, device=places.device).float() / channels
            angles.append(torch.outer(places[:, axis].float(), 1.0 / self.theta**pairs))
        angle = torch.cat(angles, dim=1)
        return torch.polar(torch.ones_like(angle), angle)


def _check(config: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    variants = [name for name in UNSUPPORTED if config.get(name)]
    problems: list[Problem | None] = []
    if variants:
        expected = f"a model without {', '.join(variants)}, which changes how it reads its inputs"
        fix = "take one such as Qwen/Qwen-Image"
        problems.append(Problem("path", options["path"], expected, fix))
    reads, channels, patch = config["in_channels"], options["latent_channels"], config["patch_size"]
    writes = config.get("out_channels") or reads
    if (reads, writes) != (channels * patch**2, channels):
        wanted = f"a model that reads {channels} x patch {patch}^2 = {channels * patch**2} a token"
        holds = f"reads {reads} channels a token and writes {writes} a cell"
        problems.append(channel_problem(options, holds, wanted))
    problems.append(axes_problem(config["axes_dims_rope"], config["attention_head_dim"]))
    if wrong := [problem for problem in problems if problem]:
        raise ConfigError(wrong)
