"""A plain multi-layer perceptron from VLM states to the head's condition.

B batch, L tokens, D width of the VLM, Dc width of the condition.
"""

from __future__ import annotations

import warnings

from torch import Tensor, nn

from qk_lightning.parts.base import Part, weights_dtype


class MLP(Part):
    """Linear layers with GELU between, the same for each token.

    Args:
        num_layers: Linear layers; 1 is a plain projection.
        hidden_size: Width between the layers; null takes the output width.
        output_norm: End with an RMSNorm.
        output_gain: Initial gain of that RMSNorm (sqrt(5.5) matches what Sana expects).
        residual: Add the states themselves and start with a last layer of zeros, so that an
            untrained connector hands the states on as they are. Heads pretrained on the VLM's own
            states (connector frozen) then understand any such connector from the first step.
        input_size: Width of the VLM, D.
        output_size: Width of the condition, Dc.

    Raises:
        ValueError: No layer, or `residual` with another width or with `output_norm`.

    Source: Query-Kontext, arXiv 2509.26641 (a two-layer MLP connector).
    """

    version = 1
    wired = ("input_size", "output_size")

    def __init__(
        self,
        *,
        num_layers: int = 2,
        hidden_size: int | None = None,
        output_norm: bool = False,
        output_gain: float = 1.0,
        residual: bool = False,
        input_size: int,
        output_size: int,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if residual and input_size != output_size:
            raise ValueError(
                f"residual: the VLM's width {input_size} is not the condition's {output_size}; set "
                "connector.residual=false, or head.condition_size to the VLM's width."
            )
        if residual and output_norm:
            raise ValueError("residual: with output_norm it would not start as the identity.")
        if num_layers < 1:
            raise ValueError(f"num_layers: {num_layers}, expected 1 or more.")
        if output_gain != 1.0 and not output_norm:
            warnings.warn("output_gain has no effect while output_norm is false", stacklevel=2)
        widths = [input_size, *[hidden_size or output_size] * (num_layers - 1), output_size]
        layers: list[nn.Module] = []
        for width, next_width in zip(widths[:-1], widths[1:], strict=True):
            layers += [nn.Linear(width, next_width), nn.GELU(approximate="tanh")]
        layers.pop()
        if residual:
            nn.init.zeros_(layers[-1].weight)
            nn.init.zeros_(layers[-1].bias)
        if output_norm:
            layers.append(nn.RMSNorm(output_size, eps=1e-6))
            nn.init.constant_(layers[-1].weight, output_gain)
        self.layers = nn.Sequential(*layers)
        self.residual = residual

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """Map VLM states to conditions.

        Args:
            states: [B, L, D], in any float dtype.
            mask: [B, L] bool, False where a token is padding.

        Returns:
            Condition [B, L, Dc] in the weights' dtype, zero at padding.
        """
        padding = ~mask[..., None]
        states = states.to(weights_dtype(self.layers)).masked_fill(padding, 0.0)
        carried = self.layers(states)
        if self.residual:
            carried = carried + states
        return carried.masked_fill(padding, 0.0)
