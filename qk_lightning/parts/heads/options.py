"""Options of a head that cannot be, or do not fit its checkpoint: what is wrong, and the fix.

Not here: what is asked of one architecture alone (its own file).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qk_lightning.config.errors import Problem

MAY_BE_ZERO = ("num_image_slots", "num_single_layers", "dual_attention_layers", "guidance_embed")


def check_counts(options: Mapping[str, Any]) -> None:
    """Refuse sizes and counts of which there cannot be so few.

    Args:
        options: A head's constructor arguments; those that are no numbers are passed over.

    Raises:
        ValueError: Lists every wrong one.
    """
    problems = []
    for key, value in options.items():
        numbers = value if isinstance(value, list) else [value]
        numbers = [n for n in numbers if isinstance(n, int | float) and not isinstance(n, bool)]
        may_be_zero = key in MAY_BE_ZERO
        too_few = any(n < 0 or (n == 0 and not may_be_zero) for n in numbers)
        if too_few or (value == [] and not may_be_zero):
            expected = "0 or more" if may_be_zero else "more than 0"
            problems.append(f"{key}: {value}, expected {expected}")
    if problems:
        raise ValueError("; ".join(problems))


def channel_problem(options: Mapping[str, Any], holds: str, wanted: str) -> Problem:
    """Say that a checkpoint was trained on the latents of another autoencoder.

    Args:
        options: The head's constructor arguments.
        holds: What its model does, such as `reads 32 channels`.
        wanted: The model that would fit.

    Returns:
        The problem, whose fix is a new head, or the autoencoder that was.
    """
    expected = f"{wanted}: the autoencoder gives {options['latent_channels']} channels a cell, and "
    expected += f"the checkpoint fixes that its model {holds}"
    null = [f"head.{key}=null" for key in ("path", "subfolder") if options.get(key)]
    fix = f"set {' and '.join(null)} for a new head of the right size, or the autoencoder that "
    return Problem("path", options["path"], expected, fix + "the checkpoint was trained with")


def axes_problem(axes: Sequence[int], head_dim: int) -> Problem | None:
    """Say why the rotary channels of three axes do not share out an attention head.

    Args:
        axes: Channels for (index, row, column).
        head_dim: Width of an attention head.

    Returns:
        What is wrong, or None.
    """
    if len(axes) == 3 and sum(axes) == head_dim and not any(n % 2 for n in axes):
        return None
    expected = f"three even numbers that sum to attention_head_dim = {head_dim}"
    side = head_dim * 3 // 16 * 2
    fix = f"set head.axes_dims_rope=[{head_dim - 2 * side},{side},{side}]"
    if not side or head_dim % 2:
        fix = "set head.attention_head_dim to an even number of 6 or more, and the axes to match"
    return Problem("axes_dims_rope", list(axes), expected, fix)
