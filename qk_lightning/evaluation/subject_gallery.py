"""Telling a drawn subject from a gallery of others, by pixels.

A subject is (shape, colour, mark, mark colour). [H, W] pixels of 3 channels in 0..255, N subjects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product

import numpy as np

from qk_lightning.data.worlds.scene_draw import alike
from qk_lightning.data.worlds.scene_graph import (
    COLOURS,
    MARK_SCALE,
    MARKED_SHAPES,
    MARKS,
    REACH,
)
from qk_lightning.evaluation.scene_templates import blurred, coverage

GALLERY_SIZE = 100
_BLUR = 0.4  # pixels; between a sharp picture and a soft one
Identity = tuple[str, str, str | None, str | None]


def held_out_subjects(
    holds: Callable[[Identity], bool], seed: int = 0, size: int = GALLERY_SIZE
) -> tuple[Identity, ...]:
    """Draw a gallery from the subjects that training never shows.

    Args:
        holds: Whether a subject is held out.
        seed: Draws the gallery.
        size: N, at most.
    """
    subjects: list[Identity] = [
        subject
        for subject in product(MARKED_SHAPES, COLOURS, MARKS, COLOURS)
        if not alike(subject[1], subject[3]) and holds(subject)
    ]
    order = np.random.default_rng(seed).permutation(len(subjects))
    return tuple(subjects[number] for number in order[:size])


def near_misses(subject: Identity) -> Iterator[Identity]:
    """Give the subjects that differ in one thing, so that nearly right is not right.

    Colours that are alike do not count as different. Nor do shapes of the mark: at 32 px it is
    four pixels wide, and the gallery has other shapes of it anyway.

    Args:
        subject: Shape, colour, mark, mark colour.
    """
    shape, colour, mark, mark_colour = subject
    yield shape, colour, None, None
    for other in MARKED_SHAPES:
        yield other, colour, mark, mark_colour
    for other in COLOURS:
        if not (mark_colour and (alike(other, mark_colour) or alike(other, colour))):
            yield shape, colour, mark, other
            yield shape, other, mark, mark_colour


def gallery_rank(
    picture: np.ndarray,
    background: Sequence[float],
    place: tuple[float, float, float],
    subject: Identity,
    gallery: Sequence[Identity],
) -> int:
    """Rank a subject among a gallery by how well each explains what is drawn at a place.

    The subject's near misses are in it, and others up to N. Every member is laid on the place
    with its centroid and area there; the sum of squared differences over the disc that holds all
    outlines decides. Chance gives rank 1 in 1 of N.

    Args:
        picture: [3, H, W] uint8.
        background: Its background, sRGB.
        place: Centroid x and y and radius of the circle of equal area, in picture sides.
        subject: The one that should be there.
        gallery: N others, of which the last give way to the subject and its near misses.

    Returns:
        1 for the best; ties count against the subject.
    """
    others = list(dict.fromkeys([*near_misses(subject), *gallery]))
    others = [other for other in others if other != subject][: len(gallery) - 1]
    errors = _errors(picture, np.asarray(background), place, [subject, *others])
    return 1 + int((errors[1:] <= errors[0]).sum())


def _errors(
    picture: np.ndarray,
    background: np.ndarray,
    place: tuple[float, float, float],
    subjects: Sequence[Identity],
) -> np.ndarray:
    """Sum of squared differences to each subject, [N]."""
    h, w = picture.shape[1:]
    x, y, radius = (value * w for value in place)
    rows, columns = np.mgrid[:h, :w] + 0.5
    reach = max(REACH[shape] for shape in MARKED_SHAPES) * radius + 1
    near = np.hypot(rows - y, columns - x) <= reach
    pixels = np.moveaxis(picture, 0, -1)[near] - background
    outer = _shares(MARKED_SHAPES, x, y, radius, near)
    inner = _shares(MARKS, x, y, radius * MARK_SCALE, near)
    found = []
    for shape, colour, mark, mark_colour in subjects:
        share = outer[MARKED_SHAPES.index(shape)]
        drawn = share[:, None] * (np.array(COLOURS[colour]) - background)
        if mark is not None and mark_colour is not None:
            part = inner[MARKS.index(mark)][:, None]
            other = np.array(COLOURS[mark_colour]) - np.array(COLOURS[colour])
            drawn = drawn + part * other
        found.append(float(((pixels - drawn) ** 2).sum()))
    return np.array(found)


def _shares(
    shapes: tuple[str, ...], x: float, y: float, radius: float, near: np.ndarray
) -> np.ndarray:
    sharp = coverage(shapes, np.array([[x, y, radius]]), 0, 0, *near.shape)[0]
    shares: np.ndarray = blurred(sharp, (_BLUR,))[0][:, near]
    return shares
