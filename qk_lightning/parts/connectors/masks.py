"""Which tokens of a condition are real, where a connector changes their number.

B batch, L tokens of the VLM, N tokens of the condition.
"""

from __future__ import annotations

from torch import Tensor

from qk_lightning.parts.base import Part


def condition_mask(connector: Part, mask: Tensor) -> Tensor:
    """Tell the condition's mask: the states' own, unless the connector has an `output_mask`.

    Args:
        connector: A connector; one that changes the number of tokens has a method
            `output_mask(mask)`.
        mask: [B, L] bool, of the states that it reads.

    Returns:
        [B, N] bool, False where a token of the condition is padding.
    """
    own = getattr(connector, "output_mask", None)
    return mask if own is None else own(mask)
