"""MetaQuery's connector: a bidirectional encoder, by default at the VLM's width, then a projection.

Not here: the encoder itself (bidirectional.py). B batch, L tokens, D width of the VLM, W of the
encoder, Dc of the condition.
"""

from __future__ import annotations

from torch import Tensor, nn

from qk_lightning.parts.base import Part, weights_dtype
from qk_lightning.parts.connectors.bidirectional import Encoder


class EncProj(Part):
    """Encoder ("Enc") at the VLM's width, then projection ("Proj") to the condition's width.

    Pre-norm blocks with rotary positions, per-head RMS norm of queries and keys after the
    rotation, SwiGLU, no causal mask and no final norm; then Linear, GELU(tanh), Linear, RMSNorm.
    Positions count the tokens that are not padding, so padding changes nothing wherever it is.
    Parameters with mlp_ratio = 4: num_layers (16 W^2 + 5 W + 2 W / A) + W Dc + Dc^2 + 3 Dc, and
    D W + W where the encoder has a width of its own.

    Args:
        num_layers: Encoder blocks.
        width: Width of the encoder, W; null takes the VLM's, another is reached by a linear layer.
            Parameters grow with its square: 24 layers have 0.3 B at 896 and 5 B at 3584.
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
        width = width or input_size
        self.blocks = Encoder(
            num_layers=num_layers,
            width=width,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
            init_std=init_std,
            rope_theta=rope_theta,
            gradient_checkpointing=gradient_checkpointing,
        )
        self.projection = nn.Sequential(
            nn.Linear(width, output_size),
            nn.GELU(approximate="tanh"),
            nn.Linear(output_size, output_size),
            nn.RMSNorm(output_size, eps=1e-6),
        )
        nn.init.constant_(self.projection[-1].weight, output_gain)
        # Last, so that an encoder at the VLM's width starts from the same numbers as ever.
        self.entry = nn.Identity() if width == input_size else nn.Linear(input_size, width)

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
        states = self.blocks(self.entry(states), mask)
        return self.projection(states).masked_fill(padding, 0.0)
