"""A connector of fixed length: learnt latents gather from the VLM's states by cross-attention.

B batch, L tokens, N latents, D width of the VLM, W of the resampler, Dc of the condition.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from qk_lightning.parts.base import Part, weights_dtype


class Resampler(Part):
    """N learnt latents read any number of states; the condition has N tokens, none of it padding.

    Each block: latents += attention(latents; keys and values from states and latents), then
    latents += SwiGLU(latents), both pre-norm. Since a latent sees the latents too, a row without
    any state (an empty prompt with `context: text`) is a condition like any other. The states
    carry the VLM's own positions and get no others. Then Linear and RMSNorm.
    Parameters with mlp_ratio = 4: N W + num_layers (16 W^2 + 3 W) + W Dc + 2 Dc, and D W + W where
    it has a width of its own.

    Args:
        num_tokens: Latents, N: the length of the condition.
        num_layers: Blocks.
        width: Width of latents and blocks, W; null takes the VLM's.
        num_heads: Attention heads; null takes W / 64, at least 1.
        mlp_ratio: Width of the SwiGLU as a multiple of W.
        init_std: Standard deviation of latents and linear weights.
        output_gain: Initial gain of the last RMSNorm (sqrt(5.5) matches what Sana expects, 1 what
            SD1.5 does).
        gradient_checkpointing: Recompute the blocks in the backward pass.
        input_size: Width of the VLM, D.
        output_size: Width of the condition, Dc.

    Raises:
        ValueError: No latent, no block, or heads that do not split the width.

    Source: the resampler of Flamingo, arXiv 2204.14198, sec. 3.1.1.
    """

    version = 1
    wired = ("input_size", "output_size")
    lora_targets = ("to_q", "to_k", "to_v", "to_out")

    def __init__(
        self,
        *,
        num_tokens: int = 64,
        num_layers: int = 2,
        width: int | None = None,
        num_heads: int | None = None,
        mlp_ratio: float = 4.0,
        init_std: float = 0.02,
        output_gain: float = 1.0,
        gradient_checkpointing: bool = False,
        input_size: int,
        output_size: int,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        for name, value in (("num_tokens", num_tokens), ("num_layers", num_layers)):
            if value < 1:
                raise ValueError(f"{name}: {value}, expected 1 or more.")
        width = width or input_size
        num_heads = num_heads or max(1, width // 64)
        if width % num_heads:
            raise ValueError(
                f"num_heads: {num_heads} does not split the resampler's width {width}; set "
                "num_heads to a divisor of it."
            )
        self.gradient_checkpointing = gradient_checkpointing
        self.latents = nn.Parameter(torch.randn(num_tokens, width) * init_std)
        self.entry = nn.Identity() if width == input_size else nn.Linear(input_size, width)
        mlp_size = int(width * mlp_ratio)
        self.blocks = nn.ModuleList(
            ResamplerBlock(width, num_heads, mlp_size) for _ in range(num_layers)
        )
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=init_std)
        self.projection = nn.Sequential(
            nn.Linear(width, output_size), nn.RMSNorm(output_size, eps=1e-6)
        )
        nn.init.constant_(self.projection[-1].weight, output_gain)

    def shard_units(self) -> list[nn.Module]:
        """Blocks that FSDP shards one by one.

        Returns:
            The blocks.
        """
        return list(self.blocks)

    def output_mask(self, mask: Tensor) -> Tensor:
        """Say which tokens of the condition are real: all of them.

        Args:
            mask: [B, L] bool, of the states.

        Returns:
            [B, N] bool, all True.
        """
        return mask.new_ones(len(mask), len(self.latents))

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """Gather the states into N tokens.

        Args:
            states: [B, L, D], in any float dtype; L may be 0.
            mask: [B, L] bool, False where a token is padding.

        Returns:
            Condition [B, N, Dc] in the weights' dtype.
        """
        states = states.to(weights_dtype(self.projection)).masked_fill(~mask[..., None], 0.0)
        states = self.entry(states)
        latents = self.latents.expand(len(states), -1, -1)
        visible = functional.pad(mask, (0, latents.shape[1]), value=True)[:, None, None]
        for block in self.blocks:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                latents = checkpoint(block, latents, states, visible, use_reentrant=False)
            else:
                latents = block(latents, states, visible)
        return self.projection(latents)


class ResamplerBlock(nn.Module):
    """One pre-norm block: latents attend to states and latents, then SwiGLU.

    Args:
        width: W.
        num_heads: Attention heads.
        mlp_size: Inner width of the SwiGLU.
    """

    def __init__(self, width: int, num_heads: int, mlp_size: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.states_norm = nn.RMSNorm(width, eps=1e-6)
        self.latents_norm = nn.RMSNorm(width, eps=1e-6)
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(width, width, bias=False)
        self.to_v = nn.Linear(width, width, bias=False)
        self.to_out = nn.Linear(width, width, bias=False)
        self.mlp_norm = nn.RMSNorm(width, eps=1e-6)
        self.gate = nn.Linear(width, mlp_size, bias=False)
        self.up = nn.Linear(width, mlp_size, bias=False)
        self.down = nn.Linear(mlp_size, width, bias=False)

    def forward(self, latents: Tensor, states: Tensor, visible: Tensor) -> Tensor:
        """Apply the block.

        Args:
            latents: [B, N, W].
            states: [B, L, W].
            visible: [B, 1, 1, L + N] bool, which keys count.

        Returns:
            Latents [B, N, W].
        """
        normed = self.latents_norm(latents)
        seen = torch.cat([self.states_norm(states), normed], dim=1)
        q, k, v = (
            linear(tokens).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for linear, tokens in ((self.to_q, normed), (self.to_k, seen), (self.to_v, seen))
        )
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=visible)
        latents = latents + self.to_out(mixed.transpose(1, 2).flatten(2))
        normed = self.mlp_norm(latents)
        return latents + self.down(functional.silu(self.gate(normed)) * self.up(normed))
