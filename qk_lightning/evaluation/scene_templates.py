"""What share of each pixel a shape covers, for any place and size, from the outlines alone.

Not the renderer: only `scene_graph.inside` is shared with it. Pixel i spans [i, i + 1].
S shapes, Q places, L blurs, h x w pixels of a window.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from qk_lightning.data.worlds.scene_graph import inside

_EXTENT = 1.7  # of the tables, in radii of the circle of equal area; every outline is within
_CELLS = 340  # of a table's side: 100 a radius


@cache
def _area_below(shape: str) -> np.ndarray:
    """Area of the unit outline left of and above each point of a grid, [cells + 1, cells + 1]."""
    step = 2 * _EXTENT / _CELLS
    # 2 x 2 points a cell.
    points = (np.arange(2 * _CELLS) + 0.5) * step / 2 - _EXTENT
    filled = inside(shape, points[None, :], points[:, None]).astype(np.float32)
    filled = filled.reshape(_CELLS, 2, _CELLS, 2).mean((1, 3)) * step**2
    return np.pad(filled.cumsum(0).cumsum(1), ((1, 0), (1, 0))).astype(np.float32)


@cache
def _tables(shapes: tuple[str, ...]) -> np.ndarray:
    return np.stack([_area_below(shape) for shape in shapes])


def coverage(
    shapes: Sequence[str], places: np.ndarray, left: int, top: int, h: int, w: int
) -> np.ndarray:
    """Return the share of each pixel of a window that shapes cover.

    Args:
        shapes: S of SHAPES.
        places: [Q, 3], each x and y of the centroid and the radius of the circle of equal area,
            in pixels.
        left: First column of the window.
        top: First row of the window.
        h: Rows of the window.
        w: Columns of the window.

    Returns:
        [Q, S, h, w] float32 in [0, 1].
    """
    x, y, radius = np.asarray(places, dtype=np.float32).T[..., None]
    rows, down = _grid(np.arange(top, top + h + 1), y, radius)
    columns, right = _grid(np.arange(left, left + w + 1), x, radius)
    table = _tables(tuple(shapes)).reshape(len(shapes), -1)
    width = _CELLS + 1
    corner = rows[:, :, None] * width + columns[:, None, :]  # [Q, h + 1, w + 1]
    down, right = down[:, :, None], right[:, None, :]
    upper, lower = (
        table.take(corner + step, 1) * (1 - right) + table.take(corner + step + 1, 1) * right
        for step in (0, width)
    )
    below = upper + down * (lower - upper)  # [S, Q, h + 1, w + 1]
    area = np.diff(np.diff(below, axis=-1), axis=-2).swapaxes(0, 1)
    return np.clip(area * (radius**2)[:, None, None], 0, 1)


def _grid(
    edges: np.ndarray, centre: np.ndarray, radius: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Where pixel edges fall in a table: cell and the part of it that is passed, [Q, edges]."""
    place = ((edges - centre) / radius + _EXTENT) * (_CELLS / (2 * _EXTENT))
    place = np.clip(place, 0, _CELLS - 1e-3)
    cell = place.astype(np.intp)
    return cell, (place - cell).astype(np.float32)


@cache
def blur_matrix(sigma: float, n: int) -> np.ndarray:
    """Return the [n, n] float32 matrix of a gaussian blur along one side; nothing lies outside.

    Args:
        sigma: In pixels; 0 for the identity.
        n: Pixels of the side.
    """
    if sigma == 0:
        return np.eye(n, dtype=np.float32)
    reach = np.arange(-6 * n, 6 * n + 1)
    total = np.exp(-(reach**2) / (2 * sigma**2)).sum()
    apart = np.arange(n)[:, None] - np.arange(n)[None, :]
    return (np.exp(-(apart**2) / (2 * sigma**2)) / total).astype(np.float32)


def blurred(templates: np.ndarray, sigmas: Sequence[float]) -> np.ndarray:
    """Blur templates by several widths.

    Args:
        templates: [..., h, w].
        sigmas: L widths in pixels.

    Returns:
        [L, ..., h, w].
    """
    h, w = templates.shape[-2:]
    flipped = np.swapaxes(templates, -1, -2)  # [..., w, h]
    found = []
    for sigma in sigmas:
        high = (flipped.reshape(-1, h) @ blur_matrix(sigma, h)).reshape(flipped.shape)
        wide = np.ascontiguousarray(np.swapaxes(high, -1, -2)).reshape(-1, w)
        found.append((wide @ blur_matrix(sigma, w)).reshape(templates.shape))
    return np.stack(found)
