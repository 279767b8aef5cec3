"""What all heads share: how pictures enter, what is masked, what is never read; conditions.

Not here: the architectures (a file each), tokens (tokens.py), channels (channels.py).
B batch, L condition tokens of width Dc.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from qk_lightning.config.errors import Problem
from qk_lightning.parts.diffusers_part import DiffusersPart

MAY_BE_ZERO = ("num_image_slots", "num_single_layers", "dual_attention_layers", "guidance_embed")


class DiffusionHead(DiffusersPart):
    """A denoiser: noisy latents, noise level, condition and input pictures in, velocity out.

    Every head is called as `head(noisy_latents, sigma, condition, condition_mask, image_latents,
    roles)`: [B, C, h, w], [B] in [0, 1], [B, L, Dc], [B, L] bool, [B, N, C, h', w'] or None, N
    roles; it returns [B, C, h, w].

    Attributes:
        image_entry: Low-level pictures enter as `tokens` of the sequence (any number of them), or
            as `channels` of the input (`num_image_slots` at most, of the target's size).
        num_image_slots: Pictures that fit; None without a limit.
        masks_padding: Whether `condition_mask` is honoured in attention.
        condition_size: Width of the condition, Dc.
        cell_multiple: The latents' height and width must be multiples of it.
        max_cells: The longest side of the latents that fits; None without a limit.
    """

    image_entry: ClassVar[Literal["tokens", "channels"]] = "tokens"
    masks_padding: ClassVar[bool] = True
    num_image_slots: int | None = None
    condition_size: int
    cell_multiple: int = 1
    max_cells: int | None = None

    def unread(self) -> list[nn.Module]:
        """Modules whose output never reaches the velocity.

        Returns:
            Modules inside this part; they stay frozen, since no gradient can come to them.
        """
        return []

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Open or freeze all parameters; those of `unread` stay frozen.

        Args:
            requires_grad: Whether they learn.

        Returns:
            This part.
        """
        super().requires_grad_(requires_grad)
        for module in self.unread():
            module.requires_grad_(False)
        return self

    def image_problem(self, roles: tuple[str, ...]) -> str | None:
        """Say why pictures of these roles cannot enter; asked before anything trains.

        Args:
            roles: `source` or `reference` for each picture.

        Returns:
            What is wrong and what would mend it, or None.
        """
        return None

    def check_size(self, latents: Tensor, name: str) -> None:
        """See that latents have a size that the head can cut into tokens.

        Args:
            latents: [..., h, w].
            name: What they are called in the error.

        Raises:
            ValueError: A side is no multiple of `cell_multiple`, or longer than `max_cells`.
        """
        height, width = latents.shape[-2:]
        multiple = self.cell_multiple
        if height % multiple or width % multiple:
            raise ValueError(
                f"{name}: {height} x {width} latent cells, expected multiples of {multiple}, the "
                f"side of {type(self).__name__}'s patch; choose another picture size."
            )
        if self.max_cells is not None and max(height, width) > self.max_cells:
            raise ValueError(
                f"{name}: {height} x {width} latent cells, expected {self.max_cells} or fewer a "
                "side, for which the head has positions; choose smaller pictures."
            )


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
