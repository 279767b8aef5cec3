"""Which pictures a codec takes: sides that are whole latent cells."""

from __future__ import annotations

from torch import Tensor


def check_size(images: Tensor, stride: int) -> None:
    """Refuse pictures whose sides are not whole latent cells.

    Args:
        images: [..., H, W].
        stride: Pixels of a latent cell's side.

    Raises:
        ValueError: H or W is no multiple of the stride.
    """
    height, width = images.shape[-2:]
    if height % stride or width % stride:
        raise ValueError(
            f"images: {height} x {width} pixels, expected multiples of {stride}, the pixels of a "
            "latent cell; resize or crop them."
        )
