"""A bidirectional pre-norm encoder: the "Enc" of `enc_proj` and `proj_enc`.

Not here: projections and norms around it. B batch, L tokens, D width, A attention heads, E = D / A.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint


class Encoder(nn.ModuleList):
    """Pre-norm blocks with rotary positions, no causal mask and no final norm.

    Positions count the tokens that are not padding, so padding changes nothing wherever it is.

    Args:
        num_layers: Blocks.
        width: D.
        num_heads: A; None takes D / 64, at least 1.
        mlp_ratio: Width of the SwiGLU as a multiple of D.
        init_std: Standard deviation of the linear weights; biases start at zero.
        rope_theta: Base of the rotary frequencies.
        gradient_checkpointing: Recompute the blocks in the backward pass.

    Raises:
        ValueError: No block, or heads that do not split the width.

    Source: facebookresearch/metaquery models/transformer_encoder.py.
    """

    def __init__(
        self,
        *,
        num_layers: int,
        width: int,
        num_heads: int | None,
        mlp_ratio: float,
        init_std: float,
        rope_theta: float,
        gradient_checkpointing: bool,
    ) -> None:
        if num_layers < 1:
            raise ValueError(f"num_layers: {num_layers}, expected 1 or more; for none take mlp.")
        num_heads = num_heads or max(1, width // 64)
        if width % (2 * num_heads):
            raise ValueError(
                f"num_heads: {num_heads} does not split the encoder's width {width} into heads of "
                "even size; set num_heads to a divisor of half that width."
            )
        mlp_size = int(width * mlp_ratio)
        super().__init__(EncoderBlock(width, num_heads, mlp_size) for _ in range(num_layers))
        self.head_size, self.rope_theta = width // num_heads, rope_theta
        self.gradient_checkpointing = gradient_checkpointing
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=init_std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """Apply the blocks; every token sees every other that is not padding.

        Args:
            states: [B, L, D], finite at padding too.
            mask: [B, L] bool, False where a token is padding.

        Returns:
            States [B, L, D]; at padding they mean nothing.
        """
        positions = (mask.long().cumsum(1) - 1).clamp_min(0)
        rotation = rotary_table(positions, self.head_size, self.rope_theta, states.dtype)
        attention_mask = None if bool(mask.all()) else key_mask(mask)
        for block in self:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                states = checkpoint(block, states, rotation, attention_mask, use_reentrant=False)
            else:
                states = block(states, rotation, attention_mask)
        return states


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
