"""One segment of a picture cut out, and what is seen of it at first sight.

[h, w] pixels of the window; pixels are the picture less its background, in 0..255. Outlines are
laid over it in scene_fit.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

_PAD = 4  # pixels of background around a segment that a fit looks at
_SAME_COLOUR = 0.9  # cosine of two contrasts


@dataclass(frozen=True)
class Window:
    """The pixels a fit looks at.

    Args:
        pixels: [h, w, 3] float32, the picture less its background.
        weights: [h, w] float32, 1 where a pixel belongs to the segment or the background near it.
        mask: [h, w] bool, the segment.
        left: First column.
        top: First row.
        noise: Standard deviation of the background's pixels, a channel.
    """

    pixels: np.ndarray
    weights: np.ndarray
    mask: np.ndarray
    left: int
    top: int
    noise: float


def window_of(pixels: np.ndarray, mask: np.ndarray, owner: np.ndarray, noise: float) -> Window:
    """Cut out a segment.

    Args:
        pixels: [H, W, 3], the picture less its background.
        mask: [H, W] bool, the segment.
        owner: [H, W] bool, the pixels that are nearer to this segment than to any other.
        noise: Standard deviation of the background's pixels, a channel.
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, left = max(rows[0] - _PAD, 0), max(columns[0] - _PAD, 0)
    box = np.s_[top : rows[-1] + _PAD + 1, left : columns[-1] + _PAD + 1]
    return Window(pixels[box], owner[box].astype(np.float32), mask[box], int(left), int(top), noise)


def strongest(window: Window) -> np.ndarray:
    """Return the mean contrast of what stands out most and is of one colour, [3].

    Args:
        window: The segment.
    """
    pixels = window.pixels[window.mask]
    strength = np.sqrt((pixels**2).sum(1)) + 1e-6
    strong = strength >= np.quantile(strength, 0.67)
    pixels, strength = pixels[strong], strength[strong]
    directions = pixels / strength[:, None]
    alike = directions @ directions.T > _SAME_COLOUR
    np.fill_diagonal(alike, True)  # also where a pixel is like the background
    return pixels[alike[alike.sum(1).argmax()]].mean(0)


def moments(window: Window, seen: np.ndarray) -> np.ndarray:
    """Return x and y of the centroid and the radius of the circle of equal area, in pixels.

    Args:
        window: The segment.
        seen: [h, w], its share of each pixel.
    """
    near = ndimage.binary_dilation(window.mask, iterations=2) * window.weights
    amount = seen * near
    area = max(float(amount.sum()), 1.0)
    y = (amount.sum(1) @ (np.arange(seen.shape[0]) + 0.5)) / area + window.top
    x = (amount.sum(0) @ (np.arange(seen.shape[1]) + 0.5)) / area + window.left
    return np.array([x, y, np.sqrt(area / np.pi)])
