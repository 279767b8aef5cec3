"""MetaQuery's connector: a bidirectional encoder at the VLM's width, then a projection.

B batch, L tokens, D width of the VLM, Dc width of the condition, A attention heads, E = D / A.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from qk_lightning.parts.base import Part, weights_dtype


class EncProj(Part):
    """Encoder ("Enc") at the VLM's width, then projection ("Proj") to the condition's width.

    Pre-norm blocks with rotary positions, per-head RMS norm of queries and keys after the
    rotation, SwiGLU, no causal mask and no final norm; then Linear, GELU(tanh), Linear, RMSNorm.
    Positions count the tokens that are not padding, so padding changes nothing wherever it is.

    Args:
        num_layers: Encoder blocks.
        num_heads: Attention heads; null takes D / 64, at least 1.
        mlp_ratio: Width of the SwiGLU as a multiple of D.
        init_std: Standard deviation of the encoder's linear weights.
        rope_theta: Base of the rotary frequencies.
        output_gain: Initial gain of the last RMSNorm (sqrt(5.5) matches what Sana expects).
        gradient_checkpointing: Recompute the blocks in the backward pass.
        input_size: Width of the VLM, D.
        output_size: Width of the condition, Dc.

    Raises:
        ValueError: No block, or heads that do not split the VLM's width.

    Source: MetaQuery, arXiv 2504.06256, sec. 3.2; facebookresearch/metaquery
        models/transformer_encoder.py and models/model.py.
    """

    version = 1
    wired = ("input_size", "output_size")
    lora_targets = ("to_q", "to_k", "to_v", "to_out")

    def __init__(
        self,
        *,
        num_layers: int = 6,
        num_heads: int | None = None,
        mlp_ratio: float = 4.0,
        init_std: float = 0.014,
        rope_theta: float = 10000.0,
        output_gain: float = 1.0,
        gradient_checkpointing: bool = False,
        input_size: int,
        output_size: int,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if num_layers < 1:
            raise ValueError(f"num_layers: {num_layers}, expected 1 or more.")
        num_heads = num_heads or max(1, input_size // 64)
        if input_size % (2 * num_heads):
            raise ValueError(
                f"num_heads: {num_heads} does not split the VLM's width {input_size} into heads "
                "of even size; set num_heads to a divisor of half that width."
            )
        self.gradient_checkpointing = gradient_checkpointing
        self.head_size, self.rope_theta = input_size // num_heads, rope_theta
        mlp_size = int(input_size * mlp_ratio)
        self.blocks = nn.ModuleList(
            EncoderBlock(input_size, num_heads, mlp_size) for _ in range(num_layers)
        )
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=init_std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        self.projection = nn.Sequential(
            nn.Linear(input_size, output_size),
            nn.GELU(approximate="tanh"),
            nn.Linear(output_size, output_size),
            nn.RMSNorm(output_size, eps=1e-6),
        )
        nn.init.constant_(self.projection[-1].weight, output_gain)

    def shard_units(self) -> list[nn.Module]:
        """Blocks that FSDP shards one by one.

        Returns:
            The encoder blocks.
        """
        return list(self.blocks)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """Map VLM states to conditions; every token sees every other that is not padding.

        Args:
            states: [B, L, D], in any float dtype.
            mask: [B, L] bool, False where a token is padding.

        Returns:
            Condition [B, L, Dc] in the weights' dtype, zero at padding.
        """
        padding = ~mask[..., None]
        states = states.to(weights_dtype(self.projection)).masked_fill(padding, 0.0)
        positions = (mask.long().cumsum(1) - 1).clamp_min(0)
        rotation = rotary_table(positions, self.head_size, self.rope_theta, states.dtype)
        attention_mask = None if bool(mask.all()) else key_mask(mask)
        for block in self.blocks:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                states = checkpoint(block, states, rotation, attention_mask, use_reentrant=False)
            else:
                states = block(states, rotation, attention_mask)
        return self.projection(states).masked_fill(padding, 0.0)


class EncoderBlock(nn.Module):
    """One pre-norm block: attention, then SwiGLU.

    Args:
        hidden_size: D.
        num_heads: A.
        mlp_size: Inner width of the SwiGLU.
    """

    def __init__(self, hidden_size: int, num_heads: int, mlp_size: int) -> None:
        super().__init__()
        head_size = hidden_size // num_heads
        self.attention_norm = nn.RMSNorm(hidden_size, eps=1e-6)
        self.to_q = nn.Linear(hidden_size, hidden_size)
        self.to_k = nn.Linear(hidden_size, hidden_size)
        self.to_v = nn.Linear(hidden_size, hidden_size)
        self.to_out = nn.Linear(hidden_size, hidden_size, bias=False)
        self.norm_q = nn.RMSNorm(head_size, eps=1e-6)
        self.norm_k = nn.RMSNorm(head_size, eps=1e-6)
        self.mlp_norm = nn.RMSNorm(hidden_size, eps=1e-6)
        self.gate = nn.Linear(hidden_size, mlp_size, bias=False)
        self.up = nn.Linear(hidden_size, mlp_size, bias=False)
        self.down = nn.Linear(mlp_size, hidden_size, bias=False)
        self.head_size = head_size

    def forward(
        self, states: Tensor, rotation: tuple[Tensor, Tensor], attention_mask: Tensor | None
    ) -> Tensor:
        """Apply the block.

        Args:
            states: [B, L, D].
            rotation: cos and sin, each [B, 1, L, E].
            attention_mask: [B, 1, L, L] bool, or None where all may see all.

        Returns:
            States [B, L, D].
        """
        normed = self.attention_norm(states)
        q, k, v = (
            linear(normed).unflatten(-1, (-1, self.head_size)).transpose(1, 2)
            for linear in (self.to_q, self.to_k, self.to_v)
        )
        q, k = self.norm_q(rotate(q, *rotation)), self.norm_k(rotate(k, *rotation))
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=attention_mask)
        states = states + self.to_out(mixed.transpose(1, 2).flatten(2))
        normed = self.mlp_norm(states)
        return states + self.down(functional.silu(self.gate(normed)) * self.up(normed))


def rotary_table(
    positions: Tensor, head_size: int, theta: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Angles of the rotary embedding: position * theta^(-2i / E) for the pair (i, i + E/2).

    Args:
        positions: [B, L] long.
        head_size: E, even.
        theta: Base of the frequencies.
        dtype: Of the result; the angles are computed in float32.

    Returns:
        cos and sin, each [B, 1, L, E].

    Source: RoFormer, arXiv 2104.09864, in the half-split layout of transformers.
    """
    index = torch.arange(0, head_size, 2, device=positions.device, dtype=torch.float32)
    angles = positions[..., None].float() * theta ** (-index / head_size)
    angles = torch.cat([angles, angles], dim=-1)[:, None]
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (i, i + E/2) of each head.

    Args:
        x: [B, A, L, E].
        cos: [B, 1, L, E].
        sin: [B, 1, L, E].

    Returns:
        Rotated [B, A, L, E].
    """
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


def key_mask(mask: Tensor) -> Tensor:
    """Let each token see the tokens that are not padding, and itself.

    Args:
        mask: [B, L] bool.

    Returns:
        [B, 1, L, L] bool; the diagonal keeps a row of nothing but padding free of NaN.
    """
    itself = torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
    return (mask[:, None, :] | itself)[:, None]
