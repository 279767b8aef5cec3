"""Fitting outlines to one segment of a picture: which shape, where, how big, in what colour.

A window is h x w pixels of the picture less its background, [h, w, 3] in 0..255; weights say
which of its pixels belong to this segment. Places are in pixels of the whole picture.
S shapes, K sizes, L blurs, M marks, P = h w pixels, J colours (1, or 2 with a mark).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from qk_lightning.data.worlds.scene_graph import MARK_SCALE, MARKED_SHAPES, MARKS
from qk_lightning.evaluation.scene_templates import blurred, coverage
from qk_lightning.evaluation.scene_window import Window, moments, strongest

BLURS = (0.2, 0.75, 1.25)  # gaussian sigma in pixels
_SIZES = (0.86, 0.95, 1.03)  # of the first guess
_GAIN = (0.75, 1.6)  # how far the first guess of the contrast may be off
_STEPS = 2  # of Gauss-Newton
_MUST_TRY = 2.5  # shapes whose first error is within this many times the least are moved, too
_TRIED = 3  # at most
_FAINT = 8.0  # less contrast in 0..255 is none: the rim that smoothing leaves around an object
_INSIDE = 0.8  # of the radius; a hole or a mark is within
_SMOOTHING = 0.8  # pixels; differences are smoothed, so that noise does not count
_SMOOTHED_NOISE = 1 / (2 * np.sqrt(np.pi) * _SMOOTHING)  # share of its deviation that is left


@dataclass(frozen=True)
class Fit:
    """An outline laid over a segment, perhaps with a mark at its centre.

    Args:
        shape: The shape.
        mark: Shape of the mark; None without.
        x: Centroid in pixels.
        y: Centroid in pixels.
        radius: Of the circle of equal area, in pixels.
        blur: Sigma in pixels.
        contrasts: [J, 3], colour (then the mark's colour) less background.
        coverage: [h, w] of the outline in the window.
        iou: Soft intersection over union: 1 less the differences (in shares of the contrast) over
            the union of the outline and what it does not explain.
        error: Sum of squared differences.
        left_over: Root mean square of the smoothed difference within the outline and its hole,
            noise taken off.
    """

    shape: str
    mark: str | None
    x: float
    y: float
    radius: float
    blur: float
    contrasts: np.ndarray
    coverage: np.ndarray
    iou: float
    error: float
    left_over: float


def fit_shape(window: Window, shapes: tuple[str, ...]) -> Fit:
    """Find the outline that explains a segment of one colour best.

    The segment becomes a map of coverage (the projection of each pixel on the line from the
    background to the segment's colour). Every shape is laid on its centroid in several sizes and
    blurs; the best are moved and scaled until they fit; the least squared difference wins.

    Args:
        window: The segment.
        shapes: S candidates.
    """
    contrast = strongest(window)
    seen = window.pixels @ contrast / (contrast @ contrast + 1e-9)
    place = moments(window, seen)
    templates = _templates(window, shapes, place)  # [L, K, S, P]
    weights, seen = window.weights.ravel(), seen.ravel()
    power = (templates**2) @ weights + 1e-9
    shared = templates @ (weights * seen)
    gain = np.clip(shared / power, *_GAIN)
    error = (gain**2 * power - 2 * gain * shared) + weights @ seen**2
    least = error.min((0, 1))
    limit = _MUST_TRY * max(float(least.min()), 1e-3)  # 0 up to rounding where a fit is perfect
    tried = [n for n in least.argsort()[:_TRIED] if least[n] <= limit]
    fits = []
    for number in tried:
        blur, size = np.unravel_index(int(error[..., number].argmin()), error.shape[:2])
        start = place * [1, 1, _SIZES[size]]
        fits.append(_moved(window, shapes[number], None, BLURS[blur], start))
    return min(fits, key=lambda fit: fit.error)


def fit_marked(window: Window) -> Fit:
    """Find the marked outline that explains a segment of two colours best.

    Args:
        window: The segment.
    """
    filled = ndimage.binary_fill_holes(window.mask).astype(np.float32)
    place = moments(window, filled)
    weights, pixels = window.weights.ravel(), window.pixels.reshape(-1, 3)
    outer = _templates(window, MARKED_SHAPES, place)
    inner = _templates(window, MARKS, place * [1, 1, MARK_SCALE])
    cross = np.einsum("lksp,lkmp->lksm", outer * weights, inner)
    inner_power = ((inner**2) @ weights)[:, :, None]
    # Normal equations of pixels = (outer - inner) colour + inner mark_colour.
    plain = ((outer**2) @ weights)[..., None] - 2 * cross + inner_power
    mixed = cross - inner_power
    weighted = weights[:, None] * pixels
    of_mark = (inner @ weighted)[:, :, None]
    of_plain = (outer @ weighted)[:, :, :, None] - of_mark
    scale = plain * inner_power - mixed**2 + 1e-6
    explained = (
        inner_power * (of_plain**2).sum(-1)
        - 2 * mixed * (of_plain * of_mark).sum(-1)
        + plain * (of_mark**2).sum(-1)
    ) / scale  # [L, K, S, M]
    best = explained.reshape(-1, len(MARKED_SHAPES) * len(MARKS)).max(0).argsort()[::-1][:_TRIED]
    fits = []
    for number in best:
        shape, mark = divmod(int(number), len(MARKS))
        blur, size = np.unravel_index(
            int(explained[:, :, shape, mark].argmax()), explained.shape[:2]
        )
        start = place * [1, 1, _SIZES[size]]
        fits.append(_moved(window, MARKED_SHAPES[shape], MARKS[mark], BLURS[blur], start))
    return min(fits, key=lambda fit: fit.error)


def _templates(window: Window, shapes: tuple[str, ...], place: np.ndarray) -> np.ndarray:
    """Shapes at a place in all sizes and blurs, [L, K, S, P]."""
    places = place * np.array([[1, 1, size] for size in _SIZES])
    sharp = coverage(shapes, places, window.left, window.top, *window.weights.shape)
    return blurred(sharp, BLURS).reshape(len(BLURS), len(_SIZES), len(shapes), -1)


def _parts(
    window: Window, shape: str, mark: str | None, blur: float, places: np.ndarray
) -> np.ndarray:
    """What share of each pixel has each colour at each of Q places, [Q, J, h, w]."""
    where = (window.left, window.top, *window.weights.shape)
    outer = coverage((shape,), places, *where)
    if mark is not None:
        inner = coverage((mark,), places * [1, 1, MARK_SCALE], *where)
        outer = np.concatenate([outer - inner, inner], axis=1)
    return blurred(outer, (blur,))[0]


def _colours(window: Window, parts: np.ndarray) -> np.ndarray:
    """Least squares contrasts of the parts, [J, 3]."""
    flat = parts.reshape(len(parts), -1)
    weighted = flat * window.weights.ravel()
    power = weighted @ flat.T + 1e-6 * np.eye(len(parts))
    return np.linalg.solve(power, weighted @ window.pixels.reshape(-1, 3))


def _drawn(parts: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Lay colours [J, 3] over parts [J, h, w]: [h, w, 3]."""
    return np.tensordot(parts, colours.astype(np.float32), axes=(0, 0))


def _moved(window: Window, shape: str, mark: str | None, blur: float, place: np.ndarray) -> Fit:
    """Move and scale an outline by Gauss-Newton steps; its colours are linear."""
    step = 0.25  # pixels
    steps = step * np.eye(4, 3, k=-1)  # where it is, then a step along x, y and radius
    root = np.sqrt(window.weights)[..., None]
    for _ in range(_STEPS):
        parts, *moved = _parts(window, shape, mark, blur, place + steps)
        colours = _colours(window, parts)
        drawn = _drawn(parts, colours)
        columns = [root * _drawn(other - parts, colours) / step for other in moved]
        for part in parts:  # the colours give way while the outline moves
            columns += [root * part[..., None] * channel for channel in np.eye(3, dtype="f")]
        design = np.stack(columns).reshape(len(columns), -1)
        power = design @ design.T
        power[np.diag_indices_from(power)] += 1e-4 * power.diagonal() + 1e-3
        wanted = design @ (root * (window.pixels - drawn)).ravel()
        limit = 0.15 * place[2]
        place = place + np.clip(np.linalg.solve(power, wanted)[:3], -limit, limit)
        h, w = window.weights.shape
        low = [window.left, window.top, 1.0]
        place = np.clip(place, low, [window.left + w, window.top + h, max(h, w)])
    return _as_fit(window, shape, mark, blur, place)


def _as_fit(window: Window, shape: str, mark: str | None, blur: float, place: np.ndarray) -> Fit:
    (parts,) = _parts(window, shape, mark, blur, place[None])
    colours = _colours(window, parts)
    rest = (window.pixels - _drawn(parts, colours)) * window.weights[..., None]
    outline = parts.sum(0)
    apart = np.sqrt((blurred(np.moveaxis(rest, -1, 0), (_SMOOTHING,))[0] ** 2).sum(0))
    apart = np.maximum(apart - np.sqrt(3) * _SMOOTHED_NOISE * window.noise, 0)
    h, w = outline.shape
    down = np.arange(h)[:, None] + (0.5 + window.top - place[1])
    right = np.arange(w) + (0.5 + window.left - place[0])
    within = (outline > 0.6) | (down**2 + right**2 < (_INSIDE * place[2]) ** 2)
    return Fit(
        shape=shape,
        mark=mark,
        x=float(place[0]),
        y=float(place[1]),
        radius=float(place[2]),
        blur=blur,
        contrasts=colours,
        coverage=outline,
        iou=_iou(window, parts, colours, apart),
        error=float((rest**2).sum()),
        left_over=float(np.sqrt((apart[within] ** 2).mean())) if within.any() else 0.0,
    )


def _iou(window: Window, parts: np.ndarray, colours: np.ndarray, apart: np.ndarray) -> float:
    """Turn differences [h, w] into shares of the contrast that should be there, over the union."""
    contrast = np.sqrt((colours**2).sum(1)) + 1e-9
    if contrast[0] < _FAINT:
        return 0.0
    outline = parts.sum(0)
    scale = contrast[0] + sum(
        part * (value - contrast[0]) for part, value in zip(parts[1:], contrast[1:], strict=True)
    )
    wrong = np.minimum(apart / scale, 1)
    union = ((outline + wrong * (1 - outline)) * window.weights).sum() + 1e-9
    return float(1 - (wrong * window.weights).sum() / union)
