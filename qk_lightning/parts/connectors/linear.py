"""One linear layer from VLM states to the head's condition: the smallest connector that learns.

B batch, L tokens, D width of the VLM, Dc width of the condition.
"""

from __future__ import annotations

import warnings

from torch import Tensor, nn

from qk_lightning.parts.base import Part, weights_dtype


class Linear(Part):
    """A linear layer, the same for each token: D Dc + Dc parameters.

    Args:
        output_norm: End with an RMSNorm.
        output_gain: Initial gain of that RMSNorm (sqrt(5.5) matches what Sana expects, 1 what
            SD1.5 does).
        input_size: Width of the VLM, D.
        output_size: Width of the condition, Dc.
    """

    version = 1
    wired = ("input_size", "output_size")

    def __init__(
        self,
        *,
        output_norm: bool = False,
        output_gain: float = 1.0,
        input_size: int,
        output_size: int,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if output_gain != 1.0 and not output_norm:
            warnings.warn("output_gain has no effect while output_norm is false", stacklevel=2)
        self.linear = nn.Linear(input_size, output_size)
        self.output_norm = nn.RMSNorm(output_size, eps=1e-6) if output_norm else None
        if self.output_norm is not None:
            nn.init.constant_(self.output_norm.weight, output_gain)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """Map VLM states to conditions.

        Args:
            states: [B, L, D], in any float dtype.
            mask: [B, L] bool, False where a token is padding.

        Returns:
            Condition [B, L, Dc] in the weights' dtype, zero at padding.
        """
        padding = ~mask[..., None]
        states = self.linear(states.to(weights_dtype(self.linear)).masked_fill(padding, 0.0))
        if self.output_norm is not None:
            states = self.output_norm(states)
        return states.masked_fill(padding, 0.0)
