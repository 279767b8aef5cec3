"""How much of what an edit must leave alone was left alone. B pictures of 3 x H x W, uint8."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MAX_PSNR = 100.0  # stands for equal pixels, as in systems/autoencoder.py


def untouched_psnr(
    images: np.ndarray, sources: np.ndarray, masks: Sequence[np.ndarray | None]
) -> list[float | None]:
    """Measure the PSNR of each picture against its source where the edit may change nothing.

    psnr = 20 log10(255 / rms difference over the pixels outside the mask grown by one pixel).

    Args:
        images: [B, 3, H, W] uint8.
        sources: [B, 3, H, W] uint8.
        masks: B of [H, W] bool, True where the edit changes pixels; None if unknown.

    Returns:
        B values in dB, at most 100; None where the mask is unknown or covers everything.
    """
    found: list[float | None] = []
    for image, source, mask in zip(images, sources, masks, strict=True):
        free = None if mask is None else ~_grown(mask)
        if free is None or not free.any():
            found.append(None)
            continue
        difference = image.astype(np.float64)[:, free] - source[:, free]
        error = float(np.sqrt((difference**2).mean()))
        found.append(min(MAX_PSNR, 20 * np.log10(255 / error)) if error else MAX_PSNR)
    return found


def _grown(mask: np.ndarray) -> np.ndarray:
    """Add the eight neighbours of every True pixel: edges are mixed colours."""
    padded = np.pad(mask, 1)
    height, width = mask.shape
    shifted = [padded[y : y + height, x : x + width] for y in range(3) for x in range(3)]
    return np.logical_or.reduce(shifted)
