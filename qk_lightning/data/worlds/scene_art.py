"""Drawing a scene: box-filtered pixels from outlines.

Every pixel is the mean of 6 x 6 points, each inside or outside of an object; colours are mixed
in sRGB. Only the points in an object's bounding box are looked at.
Not here: outlines and vocabulary (scene_graph.py), which scenes there are (scene_draw.py).
Shapes: S pixels a side.
"""

from __future__ import annotations

import math

import numpy as np

from qk_lightning.data.worlds.scene_graph import (
    BACKGROUNDS,
    COLOURS,
    MARK_SCALE,
    REACH,
    Scene,
    inside,
)

POINTS = 6  # along a pixel's side


def render(scene: Scene, size: int) -> np.ndarray:
    """Draw a scene: its background, then each object with its mark on top.

    Args:
        scene: What to draw.
        size: S.

    Returns:
        [3, S, S] uint8.
    """
    canvas = np.empty((3, size, size), dtype=np.float32)
    canvas[:] = np.array(BACKGROUNDS[scene.background], dtype=np.float32)[:, None, None]
    for item in scene.objects:
        _paint(canvas, item.shape, item.colour, (item.x, item.y), item.size)
        if item.mark is not None and item.mark_colour is not None:
            radius = MARK_SCALE * item.size
            _paint(canvas, item.mark, item.mark_colour, (item.x, item.y), radius)
    return np.rint(canvas).astype(np.uint8)


def _paint(
    canvas: np.ndarray, shape: str, colour: str, centre: tuple[float, float], radius: float
) -> None:
    """Lay one outline over the canvas [3, S, S], in place."""
    pixels = canvas.shape[-1]
    (left, right), (top, bottom) = (_span(place, radius * REACH[shape], pixels) for place in centre)
    if left >= right or top >= bottom:
        return
    x, y = (
        (_points(start, end) / pixels - place) / radius
        for start, end, place in ((left, right, centre[0]), (top, bottom, centre[1]))
    )
    hits = inside(shape, x[None, :], y[:, None])
    hits = hits.reshape(bottom - top, POINTS, right - left, POINTS)
    coverage = np.count_nonzero(hits, axis=(1, 3)).astype(np.float32) / POINTS**2
    box = canvas[:, top:bottom, left:right]
    box += coverage * (np.array(COLOURS[colour], dtype=np.float32)[:, None, None] - box)


def _span(centre: float, reach: float, pixels: int) -> tuple[int, int]:
    """Return the first pixel an outline can touch and the one after the last."""
    first = math.floor((centre - reach) * pixels)
    return max(first, 0), min(math.ceil((centre + reach) * pixels), pixels)


def _points(start: int, end: int) -> np.ndarray:
    """Return the sample points of pixels start .. end - 1: [(end - start) * POINTS] float32."""
    return start + (np.arange((end - start) * POINTS, dtype=np.float32) + 0.5) / POINTS
