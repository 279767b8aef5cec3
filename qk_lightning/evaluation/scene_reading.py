"""Reading scenes off pictures: which objects where, in which colours, on which background.

Segments come from scene_segments.py, outlines from scene_fit.py; what was asked for is held
against them in scene_verdicts.py. Nothing here is learned and nothing calls the renderer.
[H, W] pixels of 3 channels in 0..255.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from qk_lightning.data.worlds.scene_graph import BACKGROUNDS, COLOURS
from qk_lightning.evaluation import scene_segments as seg
from qk_lightning.evaluation.scene_fit import Fit, fit_marked, fit_shape
from qk_lightning.evaluation.scene_window import Window, window_of

MIN_IOU = 0.8  # an outline that fits worse is of no known shape
UNKNOWN = "unknown"
_GOOD_IOU = 0.86  # a fit this good, ...
_LEFT_OVER = 18.0  # ... and this near in 0..255 within the outline, is not taken apart
_TOUCHED = 0.1  # share of a pixel that counts as covered
_HOLE = 45.0  # less contrast in 0..255 than this is a ring's hole and no mark
_ABOVE_NOISE = 12.0  # contrast times radius, in deviations of the background; less is noise
_MARKED_IOU = 0.85
_MARK_LEAVES = 0.6  # of what one colour leaves over, at most
_CLEARLY_BETTER = 0.05  # in the worst outline's IoU, if one outline would do
_CUTS = (0.5, 0.65)  # shares of a piece's contrast between two objects
_MAX_DEPTH = 2
_MOST_FITS = 12  # for all pieces of a picture; a smear that needs more is called unknown


@dataclass(frozen=True)
class Detection:
    """One object that was read.

    Args:
        shape: One of SHAPES, or UNKNOWN.
        colour: One of COLOURS.
        box: x1, y1, x2, y2 in pixels.
        x: Centroid in picture sides.
        y: Centroid in picture sides.
        size: Radius of the circle of equal area, in picture sides.
        iou: How well the outline fits, 0 to 1.
        mark: Shape of the mark; None without.
        mark_colour: One of COLOURS; None without a mark.
    """

    shape: str
    colour: str
    box: tuple[float, float, float, float]
    x: float
    y: float
    size: float
    iou: float
    mark: str | None = None
    mark_colour: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; the shape is called "class", as GenEval does."""
        values = asdict(self)
        return {"class": values.pop("shape"), **values, "box": list(self.box)}


@dataclass(frozen=True)
class SceneReading:
    """What was read off one picture.

    Args:
        objects: The best fitting outline first.
        background: One of BACKGROUNDS.
        background_colour: sRGB as it was measured.
    """

    objects: tuple[Detection, ...]
    background: str
    background_colour: tuple[float, float, float]


def read_scene(picture: np.ndarray, shapes: tuple[str, ...]) -> SceneReading:
    """Read one picture.

    Args:
        picture: [3, H, W] uint8.
        shapes: The shapes there may be.
    """
    canvas = np.moveaxis(np.asarray(picture, dtype=np.float32), 0, -1)
    background = seg.background_of(canvas)
    contrast = seg.contrast_map(canvas, background)
    pieces = seg.segments(contrast)
    noise = seg.noise_of(canvas, background)
    share = max(_MOST_FITS // max(len(pieces), 1), 2)
    explainer = _Explainer(canvas - background, contrast, noise, shapes, share)
    objects = [
        _detection(window, fit, background, canvas.shape[0])
        for piece, owner in zip(pieces, seg.owners(pieces), strict=True)
        for window, fit in explainer.explain_piece(piece, owner)
        if np.linalg.norm(fit.contrasts[0]) * fit.radius >= _ABOVE_NOISE * noise
    ]
    return SceneReading(
        objects=tuple(sorted(objects, key=lambda item: -item.iou)),
        background=seg.nearest_name(background, BACKGROUNDS),
        background_colour=(float(background[0]), float(background[1]), float(background[2])),
    )


@dataclass
class _Explainer:
    """Explains pieces of one picture by outlines.

    Args:
        pixels: [H, W, 3], the picture less its background.
        contrast: [H, W] of `seg.contrast_map`.
        noise: `seg.noise_of` the picture.
        shapes: The shapes there may be.
        most_fits: How many outlines are tried on a piece and what it is taken apart into.
        fits_left: How many of them are left.
    """

    pixels: np.ndarray
    contrast: np.ndarray
    noise: float
    shapes: tuple[str, ...]
    most_fits: int
    fits_left: int = 0

    def explain_piece(self, piece: np.ndarray, owner: np.ndarray) -> list[tuple[Window, Fit]]:
        """Return the outlines that make up a piece; bounded, whatever it looks like."""
        self.fits_left = self.most_fits
        return self.explain(piece, owner)

    def explain(
        self, piece: np.ndarray, owner: np.ndarray, depth: int = 0
    ) -> list[tuple[Window, Fit]]:
        """Return the outlines that make up a piece: one, unless several explain it better.

        `owner` [H, W] are the pixels nearer to this piece than to any other.
        """
        window = window_of(self.pixels, piece, owner, self.noise)
        whole = fit_shape(window, self.shapes)
        plain = whole.left_over < _LEFT_OVER and not self._misses(piece, [(window, whole)])
        self.fits_left -= 1
        if (plain and whole.iou >= _GOOD_IOU) or self.fits_left <= 0:
            return [(window, whole)]
        self.fits_left -= 1
        if marked := self._marked(window, whole):
            return [(window, marked)]
        best, score = [(window, whole)], whole.iou
        if plain and whole.iou >= MIN_IOU:
            score += _CLEARLY_BETTER
        for parts in self._ways(piece) if depth < _MAX_DEPTH else ():
            if self.fits_left < len(parts):
                break
            found = [
                pair
                for part, near in zip(parts, seg.owners(parts), strict=True)
                for pair in self.explain(part, near & owner, depth + 1)
            ]
            worst = min(fit.iou for _, fit in found)
            if worst <= score or self._misses(piece, found):
                continue
            if _apart([fit for _, fit in found]):
                best, score = found, worst
        return best

    def _misses(self, piece: np.ndarray, found: list[tuple[Window, Fit]]) -> bool:
        """Tell whether an object's worth of a piece lies beyond all outlines."""
        covered = np.zeros_like(piece)
        for window, fit in found:
            h, w = fit.coverage.shape
            box = np.s_[window.top : window.top + h, window.left : window.left + w]
            covered[box] |= fit.coverage > _TOUCHED
        near = ndimage.binary_dilation(covered, iterations=2)
        return int((piece & ~near).sum()) >= seg.MIN_AREA * piece.size

    def _marked(self, window: Window, whole: Fit) -> Fit | None:
        """Return the outline with a mark, if it explains much of what one colour leaves over."""
        fit = fit_marked(window)
        faint = np.linalg.norm(fit.contrasts[-1]) < _HOLE
        if faint and whole.shape == "ring" and whole.iou >= MIN_IOU:
            return None
        explains = fit.left_over < _MARK_LEAVES * whole.left_over
        better = fit.iou > whole.iou + _CLEARLY_BETTER
        return fit if (explains or better) and fit.iou >= _MARKED_IOU else None

    def _ways(self, piece: np.ndarray) -> Iterator[list[np.ndarray]]:
        """Give the ways to take a piece apart."""
        for share in _CUTS:
            parts = seg.split_by_contrast(self.contrast, piece, share)
            if len(parts) > 1:
                yield parts
        smooth = seg.smoothed(self.pixels)
        length = np.sqrt((smooth**2).sum(-1, keepdims=True)) + 1e-6
        for values in (smooth / length, smooth):
            parts = seg.split_by_colour(values, piece)
            if len(parts) > 1:
                yield parts


def _apart(fits: list[Fit]) -> bool:
    """Tell whether no outline lies within another: the rim of a blurred object is none."""
    return all(
        math.hypot(a.x - b.x, a.y - b.y) > max(a.radius, b.radius)
        for number, a in enumerate(fits)
        for b in fits[:number]
    )


def _detection(window: Window, fit: Fit, background: np.ndarray, size: int) -> Detection:
    covered = fit.coverage >= min(0.5, float(fit.coverage.max()))
    rows, columns = np.flatnonzero(covered.any(1)), np.flatnonzero(covered.any(0))
    names = [seg.nearest_name(background + contrast, COLOURS) for contrast in fit.contrasts]
    return Detection(
        shape=fit.shape if fit.iou >= MIN_IOU else UNKNOWN,
        colour=names[0],
        box=(
            float(window.left + columns[0]),
            float(window.top + rows[0]),
            float(window.left + columns[-1] + 1),
            float(window.top + rows[-1] + 1),
        ),
        x=fit.x / size,
        y=fit.y / size,
        size=fit.radius / size,
        iou=fit.iou,
        mark=fit.mark,
        mark_colour=names[1] if fit.mark else None,
    )
