"""How much of what an edit must leave alone was left alone. B pictures of 3 x H x W, uint8."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

MAX_PSNR = 100.0  # stands for equal pixels, as in systems/autoencoder.py
VISIBLE = 0.04 * 255  # a change of the mean over channels would miss a tint


def untouched_parts(
    images: np.ndarray, sources: np.ndarray, masks: Sequence[np.ndarray | None]
) -> list[dict[str, float]]:
    """Compare each picture with its source where the edit may change nothing.

    untouched_psnr = 20 log10(255 / rms difference), in dB, at most 100;
    over_edit = share of pixels whose most different channel differs by more than 0.04. A codec
    alone changes some: its own share stands beside the score, as the ceiling.

    Args:
        images: [B, 3, H, W] uint8.
        sources: [B, 3, H, W] uint8.
        masks: B of [H, W] bool, True where the edit changes pixels (grown by one pixel here, as
            edges are mixed colours); None if unknown.

    Returns:
        B dictionaries; {} where the mask is unknown or covers everything.
    """
    found: list[dict[str, float]] = []
    for image, source, mask in zip(images, sources, masks, strict=True):
        free = None if mask is None else ~ndimage.binary_dilation(mask, np.ones((3, 3), bool))
        if free is None or not free.any():
            found.append({})
            continue
        difference = np.abs(image.astype(np.float64)[:, free] - source[:, free])
        error = float(np.sqrt((difference**2).mean()))
        psnr = min(MAX_PSNR, 20 * math.log10(255 / error)) if error else MAX_PSNR
        over = float((difference.max(0) > VISIBLE).mean())
        found.append({"untouched_psnr": psnr, "over_edit": over})
    return found
