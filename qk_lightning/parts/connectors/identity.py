"""No connector: the VLM's states are the head's condition as they are.

B batch, L tokens, D width of the VLM and of the condition.
"""

from __future__ import annotations

from torch import Tensor

from qk_lightning.parts.base import Part


class Identity(Part):
    """Hand the states on; the head must read a condition as wide as the VLM.

    It has no parameters, so a configuration with it must not train its connector (set
    `trainable.connector=frozen` where a preset does).

    Args:
        input_size: Width of the VLM, D.
        output_size: Width of the condition, D too.

    Raises:
        ValueError: The widths differ.

    Source: BLIP3-o (arXiv 2505.09568) hands its VLM's query states to the head like this.
    """

    version = 1
    wired = ("input_size", "output_size")

    def __init__(self, *, input_size: int, output_size: int) -> None:
        super().__init__()
        self.save_hyperparameters()
        if input_size != output_size:
            raise ValueError(
                f"identity: the VLM's width {input_size} is not the condition's {output_size}; set "
                f"head.condition_size={input_size} where the head is new, else connector=linear."
            )

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """Clear padding.

        Args:
            states: [B, L, D].
            mask: [B, L] bool, False where a token is padding.

        Returns:
            Condition [B, L, D] in the states' dtype, zero at padding.
        """
        return states.masked_fill(~mask[..., None], 0.0)
