"""MetaQuery's other connector: a projection, then a bidirectional encoder at the condition's width.

Not here: the encoder itself (bidirectional.py). B batch, L tokens, D width of the VLM, W of the
encoder, Dc of the condition.
"""

from __future__ import annotations

from torch import Tensor, nn

from qk_lightning.parts.base import Part, weights_dtype
from qk_lightning.parts.connectors.bidirectional import Encoder


class ProjEnc(Part):
    """Projection ("Proj") to the condition's width, then encoder ("Enc") there.

    Linear, GELU(tanh), Linear; the pre-norm blocks of `enc_proj`; RMSNorm. The paper finds it no
    better than `enc_proj`, which is far smaller where the VLM is narrower than the condition.
    Parameters with mlp_ratio = 4: D W + W^2 + 2 W + num_layers (16 W^2 + 5 W + 2 W / A) + Dc, and
    W Dc + Dc where the encoder has a width of its own.

    Args:
        num_layers: Encoder blocks.
        width: Width of the encoder, W; null takes the condition's, from another one a linear layer
            leads there.
        num_heads: Attention heads, A; null takes W / 64, at least 1.
        mlp_ratio: Width of the SwiGLU as a multiple of W.
        init_std: Standard deviation of the encoder's linear weights.
        rope_theta: Base of the rotary frequencies.
        output_gain: Initial gain of the last RMSNorm (sqrt(5.5) matches what Sana expects, 1 what
            SD1.5 does).
        gradient_checkpointing: Recompute the blocks in the backward pass.
        input_size: Width of the VLM, D.
        output_size: Width of the condition, Dc.

    Raises:
        ValueError: No block, or heads that do not split the encoder's width.

    Source: MetaQuery, arXiv 2504.06256, sec. 3.2 and table 3; it is in no released code, so the
        order of its layers is that of `enc_proj` turned round.
    """

    version = 1
    wired = ("input_size", "output_size")
    lora_targets = ("to_q", "to_k", "to_v", "to_out")

    def __init__(
        self,
        *,
        num_layers: int = 6,
        width: int | None = None,
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
        width = width or output_size
        self.projection = nn.Sequential(
            nn.Linear(input_size, width), nn.GELU(approximate="tanh"), nn.Linear(width, width)
        )
        self.blocks = Encoder(
            num_layers=num_layers,
            width=width,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
            init_std=init_std,
            rope_theta=rope_theta,
            gradient_checkpointing=gradient_checkpointing,
        )
        self.exit = nn.Identity() if width == output_size else nn.Linear(width, output_size)
        self.output_norm = nn.RMSNorm(output_size, eps=1e-6)
        nn.init.constant_(self.output_norm.weight, output_gain)

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
        states = self.exit(self.blocks(self.projection(states), mask))
        return self.output_norm(states).masked_fill(padding, 0.0)
