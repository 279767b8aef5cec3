"""Drawing for the avatars world: from attributes to pixels.

A figure is flat colours over one another, so its pixels are linear in those colours: it is drawn
a few times for each shape (hair style, beard, ...) in black and white, and every colouring of it
is a weighted sum, exact to less than one of 255 levels and a hundred times faster than drawing.
Not here: the words and their renderer options (avatar_tables.py), who is drawn (avatar_people.py).
Shapes: H = W = size pixels, P paints (colours that have a name; the background is one).
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from qk_lightning.config.errors import ConfigError, Problem
from qk_lightning.data.worlds.avatar_tables import (
    LEFT,
    RIGHT,
    STYLES,
    Attribute,
    base_name,
    is_pair,
)

VERSION = 2  # raised when a change here alters pixels
PACKAGES = ("dicebear-core", "dicebear-styles", "resvg-py")
SUPERSAMPLE = 3  # 3 to H and 4 to 3/4 H: both sizes of a figure are exact box averages


def package_versions() -> tuple[str, ...]:
    """Return name and version of the packages that decide pixels.

    Raises:
        ConfigError: If one of them is not installed.
    """
    try:
        return tuple(f"{name}=={version(name)}" for name in PACKAGES)
    except PackageNotFoundError as error:
        fix = f"pip install {' '.join(PACKAGES)}"
        raise ConfigError(
            Problem("data.world.name", "avatars", f"package {error.name} installed", fix)
        ) from error


# Shapes drawn in this process, by style and size: a world, its reader and later stages share them.
_drawn: dict[tuple[str, int], dict[tuple[str, ...], tuple[np.ndarray, np.ndarray]]] = {}


class AvatarRenderer:
    """Draws people from attributes; every shape that was drawn stays in memory.

    pixels = fixed + sum over paints p of weight_p colour_p, with weight = 1 - alpha for the
    background.

    Args:
        style: A name in STYLES.
        size: Pixels of a picture's side, a multiple of 4.
    """

    def __init__(self, *, style: str, size: int) -> None:
        self.style = STYLES[style]
        self.size = size
        self.paints = [name for name, a in self.attributes.items() if a.is_paint]
        self.shapes = [name for name, a in self.attributes.items() if not a.is_paint]
        self._layers = _drawn.setdefault((style, size), {})

    @property
    def attributes(self) -> Mapping[str, Attribute]:
        """The style's attributes by name."""
        return self.style.attributes

    def fingerprint(self) -> str:
        """A short hash of all that decides pixels: tables, size, code and package versions."""
        content = repr((VERSION, self.style, self.size, SUPERSAMPLE, package_versions()))
        return hashlib.sha256(content.encode()).hexdigest()[:12]

    def image(self, attributes: Mapping[str, str]) -> np.ndarray:
        """Draw one person, or two side by side where names begin with left_ and right_.

        Equal attributes give equal pixels. Of two people each fills the middle of its half, at
        3/4 of the scale.

        Args:
            attributes: A word for each attribute.

        Returns:
            [3, H, W] uint8.
        """
        if not is_pair(attributes):
            return _to_uint8(self._paint(self.layers(attributes)[0], attributes))
        canvas = np.empty((3, self.size, self.size), dtype=np.float32)
        canvas[:] = _rgb(self.attributes["background"].options[attributes["background"]])
        half = self.size // 2
        for side, start in ((LEFT, 0), (RIGHT, half)):
            person = {base_name(k): w for k, w in attributes.items() if not _other(side, k)}
            layers = self.layers(person)[1]
            margin = (layers.shape[-1] - half) // 2
            layers = layers[:, :, margin : margin + half]
            canvas[:, -layers.shape[1] :, start : start + half] = self._paint(layers, person)
        return _to_uint8(canvas)

    def layers(self, attributes: Mapping[str, str]) -> tuple[np.ndarray, np.ndarray]:
        """Draw the layers of a shape in both sizes; only new shapes take time (about 40 ms).

        Args:
            attributes: A word for each attribute; paints are not looked at.

        Returns:
            [3 + P, H, W] and [3 + P, 3/4 H, 3/4 H] float32: the fixed colours, then the weights.
        """
        key = tuple(attributes[name] for name in self.shapes)
        if key not in self._layers:
            options = dict(self.style.fixed)
            for name, word in zip(self.shapes, key, strict=True):
                options.update(self.attributes[name].options[word])
            drawing = self._draw_layers(options)
            small = self.size * 3 // 4
            self._layers[key] = (_box_average(drawing, self.size), _box_average(drawing, small))
        return self._layers[key]

    def _draw_layers(self, options: dict[str, Any]) -> np.ndarray:
        drawings = {}
        for white in (None, *self.paints):
            colours = {
                option: ["#ffffff" if name == white else "#000000"]
                for name in self.paints
                for option in self.attributes[name].paints
            }
            if white is None or self.attributes[white].paints:
                drawings[white] = _draw(
                    self.style.file, {**options, **colours}, SUPERSAMPLE * self.size
                )
        fixed, alpha = drawings[None][:3], drawings[None][3]
        weights = [
            (drawings[name][:3] - fixed).mean(0) if name in drawings else 1 - alpha
            for name in self.paints
        ]
        return np.stack([*fixed, *weights])

    def _paint(self, layers: np.ndarray, attributes: Mapping[str, str]) -> np.ndarray:
        """Colour layers [3 + P, h, w] in: [3, h, w] float32 in [0, 1]."""
        colours = [_rgb(self.attributes[name].options[attributes[name]]) for name in self.paints]
        matrix = np.concatenate([np.eye(3, dtype=np.float32), *(c[:, :, 0] for c in colours)], 1)
        return (matrix @ layers.reshape(len(layers), -1)).reshape(3, *layers.shape[1:])


def _other(side: str, name: str) -> bool:
    return name.startswith(RIGHT if side == LEFT else LEFT)


@cache
def _rgb(colour: str) -> np.ndarray:
    """Turn #rrggbb into [3, 1, 1] float32 in [0, 1]."""
    values = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return np.array(values, dtype=np.float32)[:, None, None]


@cache
def _definition(file: str) -> dict[str, Any]:
    text = resources.files("dicebear_styles").joinpath(file).read_text(encoding="utf-8")
    return dict(json.loads(text))


@cache
def _style(file: str) -> Any:  # noqa: ANN401 - a dicebear Style; the library has no stubs
    from dicebear import Style

    return Style(_definition(file))


def _draw(file: str, options: dict[str, Any], pixels: int) -> np.ndarray:
    """Return [4, pixels, pixels] float32 in [0, 1]: colours multiplied by alpha, alpha."""
    import resvg_py
    from dicebear import Avatar
    from PIL import Image

    svg = Avatar(_style(file), options).to_string()
    png = resvg_py.svg_to_bytes(svg_string=svg, width=pixels, height=pixels, skip_system_fonts=True)
    drawing = np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"), dtype=np.float32) / 255
    drawing[..., :3] *= drawing[..., 3:]
    return drawing.transpose(2, 0, 1)


def _box_average(layers: np.ndarray, size: int) -> np.ndarray:
    factor = layers.shape[-1] // size
    return layers.reshape(len(layers), size, factor, size, factor).mean((2, 4))


def _to_uint8(canvas: np.ndarray) -> np.ndarray:
    return np.round(canvas.clip(0, 1) * 255).astype(np.uint8)
