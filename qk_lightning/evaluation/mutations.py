"""Right pictures with one thing wrong: which verdicts of the scenes' reader must notice.

A mutation changes a scene, or the picture of it, in one way. The share of items that are still
called right, by tag, is the mutation matrix of docs/evaluation.md.
Shapes: pictures of 3 x S x S, uint8.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from qk_lightning.data.worlds.scene_art import render
from qk_lightning.data.worlds.scene_graph import BACKGROUNDS, COLOURS, SIZES, Scene, SceneObject

FREE = 0.06  # between two objects, in picture sides
SHIFT = 2  # pixels
BLUR = 0.7  # sigma in pixels
Mutation = Callable[[Scene, Sequence[str], int], Scene | None]


def wrong_shape(scene: Scene, shapes: Sequence[str], size: int) -> Scene | None:
    """Give the first object another shape."""
    first = scene.objects[0]
    others = [shape for shape in shapes if shape not in {item.shape for item in scene.objects}]
    return _with_first(scene, replace(first, shape=others[0])) if others else None


def wrong_colour(scene: Scene, shapes: Sequence[str], size: int) -> Scene | None:
    """Give the first object a colour that nothing else has and that stands out."""
    taken = {item.colour for item in scene.objects}
    others = [name for name in ("red", "green", "yellow", "pink", "orange") if name not in taken]
    return _with_first(scene, replace(scene.objects[0], colour=others[0]))


def swapped_colours(scene: Scene, shapes: Sequence[str], size: int) -> Scene | None:
    """Exchange the colours of the first two objects."""
    if len(scene.objects) < 2 or scene.objects[0].colour == scene.objects[1].colour:
        return None
    one, two, *rest = scene.objects
    swapped = replace(one, colour=two.colour), replace(two, colour=one.colour)
    return replace(scene, objects=(*swapped, *rest))


def one_less(scene: Scene, shapes: Sequence[str], size: int) -> Scene | None:
    """Take the last object away."""
    return replace(scene, objects=scene.objects[:-1])


def one_more(scene: Scene, shapes: Sequence[str], size: int) -> Scene | None:
    """Add a small copy of the first object where there is room."""
    first = scene.objects[0]
    for x in np.linspace(0.2, 0.8, 7):
        for y in np.linspace(0.2, 0.8, 7):
            new = replace(first, x=float(x), y=float(y), size=SIZES["small"])
            if all(_distance(new, item) >= FREE for item in scene.objects):
                return replace(scene, objects=(*scene.objects, new))
    return None


def mirrored(scene: Scene, shapes: Sequence[str], size: int) -> Scene | None:
    """Exchange left and right."""
    return _moved(scene, lambda item: replace(item, x=1 - item.x))


def upside_down(scene: Scene, shapes: Sequence[str], size: int) -> Scene | None:
    """Turn all places by half a turn; the shapes stay upright."""
    return _moved(scene, lambda item: replace(item, x=1 - item.x, y=1 - item.y))


def shifted(scene: Scene, shapes: Sequence[str], size: int) -> Scene | None:
    """Move everything by two pixels, where that leaves all in the picture."""
    step = SHIFT / size
    for way in (step, -step):
        if all(item.reach <= item.x + way <= 1 - item.reach for item in scene.objects):
            return _moved(scene, lambda item: replace(item, x=item.x + way))  # noqa: B023
    return None


def other_background(scene: Scene, shapes: Sequence[str], size: int) -> Scene | None:
    """Change the background to one that no object looks like."""
    colours = [np.array(COLOURS[item.colour], dtype=float) for item in scene.objects]
    for name, rgb in BACKGROUNDS.items():
        far = all(np.abs(colour - rgb).max() > 60 for colour in colours)
        if name != scene.background and far:
            return replace(scene, background=name)
    return None


def unchanged(scene: Scene, shapes: Sequence[str], size: int) -> Scene | None:
    """Change nothing."""
    return scene


MUTATIONS: dict[str, Mutation] = {
    "nothing": unchanged,
    "wrong shape": wrong_shape,
    "wrong colour": wrong_colour,
    "colours of two swapped": swapped_colours,
    "one object less": one_less,
    "one object more": one_more,
    "left and right exchanged": mirrored,
    "places turned by half": upside_down,
    "all shifted by 2 px": shifted,
    "another background": other_background,
    "blur of 0.7 px": unchanged,
}


def mutate(name: str, scene: Scene, shapes: Sequence[str], size: int) -> np.ndarray | None:
    """Draw a scene with one thing changed.

    Args:
        name: one of MUTATIONS.
        scene: what was asked for.
        shapes: the world's shapes.
        size: pixels of a side.

    Returns:
        [3, S, S] uint8; None where the change is not possible.
    """
    changed = MUTATIONS[name](scene, shapes, size)
    if changed is None:
        return None
    image = render(changed, size)
    return blurred(image, BLUR) if name.startswith("blur") else image


def blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    """Blur a picture by a Gaussian.

    Args:
        image: [3, H, W] uint8.
        sigma: in pixels.
    """
    from scipy.ndimage import gaussian_filter

    values = gaussian_filter(image.astype(np.float32), (0, sigma, sigma), mode="nearest")
    return np.rint(values).astype(np.uint8)


def noisy(image: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Add Gaussian noise to a picture.

    Args:
        image: [3, H, W] uint8.
        sigma: as a share of the range of values.
        rng: draws the noise.
    """
    values = image + rng.normal(0, 255 * sigma, image.shape)
    return np.rint(values).clip(0, 255).astype(np.uint8)


def _with_first(scene: Scene, first: SceneObject) -> Scene:
    return replace(scene, objects=(first, *scene.objects[1:]))


def _moved(scene: Scene, move: Callable[[SceneObject], SceneObject]) -> Scene:
    return replace(scene, objects=tuple(move(item) for item in scene.objects))


def _distance(one: SceneObject, other: SceneObject) -> float:
    return float(np.hypot(one.x - other.x, one.y - other.y)) - one.reach - other.reach
