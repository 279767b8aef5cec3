"""Where a picture's background ends: its colour and the connected pieces of everything else.

[H, W] pixels of 3 channels in 0..255; colours are compared in CIELAB. Nothing is known here of
outlines (scene_fit.py) or of what was asked for.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy import ndimage

_STANDS_OUT = 14.0  # CIELAB distance from the background, at least
_NOISE_FACTOR = 3.0  # and this many times the spread of the background itself
_SMOOTHING = 0.7  # sigma in pixels
MIN_AREA = 0.008  # of the picture; less is a speck and no object
_NEIGHBOURS = np.ones((3, 3), bool)
_TO_XYZ = np.array(
    [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
) / np.array([[0.9505], [1.0], [1.089]])


def to_lab(colours: np.ndarray) -> np.ndarray:
    """Turn sRGB colours into CIELAB (D65).

    Args:
        colours: [..., 3] in 0..255.

    Returns:
        [..., 3] float.
    """
    share = np.clip(np.asarray(colours, dtype=np.float32) / 255, 0, 1)
    linear = np.where(share > 0.04045, ((share + 0.055) / 1.055) ** 2.4, share / 12.92)
    xyz = linear @ _TO_XYZ.T.astype(np.float32)
    root = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    x, y, z = np.moveaxis(root, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


def nearest_name(colour: np.ndarray, palette: Mapping[str, tuple[int, int, int]]) -> str:
    """Name a colour by the nearest one of a palette in CIELAB.

    Args:
        colour: [3] in 0..255.
        palette: sRGB by name.
    """
    names = list(palette)
    apart = to_lab(np.array([palette[name] for name in names])) - to_lab(colour)
    return names[int((apart**2).sum(-1).argmin())]


def background_of(picture: np.ndarray) -> np.ndarray:
    """Return the colour of the background, [3]: the median of the border, channel by channel.

    Args:
        picture: [H, W, 3].
    """
    return np.median(_border(picture), axis=0)


def noise_of(picture: np.ndarray, background: np.ndarray) -> float:
    """Return the standard deviation of the background's pixels, from their median distance.

    Args:
        picture: [H, W, 3].
        background: [3].
    """
    return float(np.median(abs(_border(picture) - background)) / 0.6745)


def _border(picture: np.ndarray) -> np.ndarray:
    return np.concatenate([picture[0], picture[-1], picture[1:-1, 0], picture[1:-1, -1]])


def contrast_map(picture: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Return how far each pixel is from the background in CIELAB, lightly smoothed, [H, W].

    Args:
        picture: [H, W, 3].
        background: [3].
    """
    return np.sqrt(((to_lab(smoothed(picture)) - to_lab(background)) ** 2).sum(-1))


def smoothed(picture: np.ndarray) -> np.ndarray:
    """Blur a picture [H, W, 3] so lightly that noise goes and outlines stay."""
    return ndimage.gaussian_filter(picture, (_SMOOTHING, _SMOOTHING, 0))


def segments(contrast: np.ndarray) -> list[np.ndarray]:
    """Find the connected pieces that stand out from the background.

    Args:
        contrast: [H, W] of `contrast_map`.

    Returns:
        Masks [H, W], specks left out.
    """
    level = max(_STANDS_OUT, _NOISE_FACTOR * float(np.median(_border(contrast))))
    return _joined(_pieces(contrast > level))


def _joined(pieces: list[np.ndarray]) -> list[np.ndarray]:
    """Add to each piece what lies in its holes: where a mark begins may look like background."""
    pieces = sorted(pieces, key=lambda piece: -int(piece.sum()))
    found: list[np.ndarray] = []
    for piece in pieces:
        for number, outer in enumerate(found):
            if _within(piece, outer):
                found[number] = outer | piece
                break
        else:
            found.append(piece)
    return found


def _within(piece: np.ndarray, outer: np.ndarray) -> bool:
    for axis in (0, 1):  # cheaper than filling holes
        spans = [np.flatnonzero(mask.any(axis))[[0, -1]] for mask in (piece, outer)]
        if spans[0][0] <= spans[1][0] or spans[0][1] >= spans[1][1]:
            return False
    return not (piece & ~ndimage.binary_fill_holes(outer)).any()


def split_by_contrast(contrast: np.ndarray, piece: np.ndarray, share: float) -> list[np.ndarray]:
    """Cut a piece where it has less than a share of its contrast: what lies between two objects.

    Args:
        contrast: [H, W] of `contrast_map`.
        piece: [H, W] bool.
        share: In (0, 1).

    Returns:
        Masks [H, W], specks left out.
    """
    return _joined(_pieces(piece & (contrast > share * np.quantile(contrast[piece], 0.85))))


def split_by_colour(values: np.ndarray, piece: np.ndarray) -> list[np.ndarray]:
    """Take a piece apart into connected pieces of two colours, by two means.

    Args:
        values: [H, W, 3], what is compared: colours, or the directions in which pixels differ
            from the background, which are alike in the middle of an object and at its rim.
        piece: [H, W] bool.

    Returns:
        Masks [H, W], specks left out; one or none where the piece is of one colour.
    """
    points = values[piece]
    ends = points[[0, 0]]
    for _ in range(2):
        ends = ends[[1, 1]]
        ends[1] = points[((points - ends[0]) ** 2).sum(-1).argmax()]
    for _ in range(6):
        nearer = ((points[:, None] - ends) ** 2).sum(-1).argmin(1)
        if len(set(nearer.tolist())) < 2:
            return [piece]
        ends = np.stack([points[nearer == side].mean(0) for side in (0, 1)])
    found = []
    for side in (0, 1):
        mask = np.zeros_like(piece)
        mask[piece] = nearer == side
        found += _pieces(mask)
    return _joined(found)


def owners(pieces: list[np.ndarray]) -> list[np.ndarray]:
    """Say for each piece which pixels are nearer to it than to any other; masks [H, W].

    Args:
        pieces: Masks [H, W] that do not overlap.
    """
    if not pieces:
        return []
    label = np.zeros(pieces[0].shape, np.int32)
    for number, piece in enumerate(pieces):
        label[piece] = number + 1
    place = ndimage.distance_transform_edt(label == 0, return_distances=False, return_indices=True)
    nearest = label[tuple(place)]
    return [nearest == number + 1 for number in range(len(pieces))]


def _pieces(mask: np.ndarray) -> list[np.ndarray]:
    labels, count = ndimage.label(mask, _NEIGHBOURS)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    return [labels == n for n in range(1, count + 1) if sizes[n] >= MIN_AREA * mask.size]
