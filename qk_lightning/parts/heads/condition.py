"""The condition at a head's door: padding blanked, moved behind the tokens, masked as keys.

Not here: what makes a condition (connectors). B batch, L condition tokens of width Dc.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def masked_condition(
    condition: Tensor, condition_mask: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Prepare a condition for attention: zeros in place of padding, and never no token at all.

    What stands in padding may be anything, and not every attention kernel takes no keys.

    Args:
        condition: [B, L, Dc]; L may be 0.
        condition_mask: [B, L] bool, False where a token is padding.
        dtype: That of the head's weights.

    Returns:
        The same with L of 1 or more.
    """
    if not condition.shape[1]:
        condition = functional.pad(condition, (0, 0, 0, 1))
        condition_mask = functional.pad(condition_mask, (0, 1), value=False)
    return condition.to(dtype).masked_fill(~condition_mask[..., None], 0.0), condition_mask


def padding_last(condition: Tensor, condition_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Move padding behind the tokens, for heads that count condition tokens from the first.

    Args:
        condition: [B, L, Dc].
        condition_mask: [B, L] bool.

    Returns:
        Both in the new order; that of the tokens is kept.
    """
    order = (~condition_mask).byte().argsort(dim=1, stable=True)
    ordered = condition.gather(1, order[..., None].expand_as(condition))
    return ordered, condition_mask.gather(1, order)


def key_mask(condition_mask: Tensor, num_before: int = 0, num_after: int = 0) -> Tensor | None:
    """Mask padding as keys of joint attention: True may be attended to.

    Args:
        condition_mask: [B, L] bool.
        num_before: Image tokens that stand before the condition.
        num_after: Image tokens that stand behind it.

    Returns:
        [B, 1, 1, num_before + L + num_after] bool; None where nothing is padding.
    """
    if bool(condition_mask.all()):
        return None
    return functional.pad(condition_mask, (num_before, num_after), value=True)[:, None, None]
