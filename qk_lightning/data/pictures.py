"""Reading a picture of the user's: one way from a file, or an open image, to a world's pixels.

Not here: which pictures a world has (worlds/), pixels to tensors (collate.py).
Shapes: S pixels a side.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from qk_lightning.config.errors import ConfigError, Problem

if TYPE_CHECKING:
    from PIL import Image

_JPEG_END = b"\xff\xd9"


def load_picture(picture: str | Path | Image.Image, size: int | tuple[int, int]) -> np.ndarray:
    """Reads a picture as RGB: EXIF rotation applied, alpha over white, fitted at the centre.

    It is resized (Lanczos) until it covers the wanted size, and what stands over at two sides is
    cropped; nothing is stretched. Of several frames the first is taken.

    Args:
        picture: A file, or an image that is open already.
        size: S, pixels of a side; or height and width.

    Returns:
        [3, S, S], or [3, height, width], uint8.

    Raises:
        ConfigError: If there is no such file, or it holds no whole picture of 8 bits a colour.
    """
    from PIL import Image, ImageOps

    try:
        if isinstance(picture, Image.Image):
            image = ImageOps.exif_transpose(picture)
        else:
            with Image.open(picture) as opened:
                image = ImageOps.exif_transpose(opened)
        image.load()
        _refuse_deep(image)
    except _unreadable() as error:
        name = repr(picture) if isinstance(picture, Image.Image) else str(picture)
        expected = f"a picture that can be read ({error})"
        fix = "check the path, or save it again as PNG or JPEG"
        raise ConfigError(Problem("picture", name, expected, fix)) from error
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    height, width = (size, size) if isinstance(size, int) else size
    image = ImageOps.fit(image.convert("RGB"), (width, height), Image.Resampling.LANCZOS)
    return np.asarray(image).transpose(2, 0, 1).copy()


def what_is_wrong(content: bytes) -> str:
    """Says why the bytes of a file are no picture that `load_picture` reads.

    Args:
        content: The whole file.

    Returns:
        The reason; "" if nothing is wrong.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content)) as image:
            _refuse_deep(image)
            image.verify()  # reads a PNG to its end, and hardly looks at the others
            if image.format == "PNG" or (image.format == "JPEG" and _JPEG_END in content[-64:]):
                return ""
        with Image.open(io.BytesIO(content)) as image:
            image.load()
    except UnidentifiedImageError:
        return "no picture of a known format"
    except _unreadable() as error:
        return str(error) or type(error).__name__
    return ""


def _refuse_deep(image: Image.Image) -> None:
    """Refuses what would turn white or black without a word: numbers that are no 8-bit colours."""
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"mode {image.mode}, more than 8 bits a colour")


def _unreadable() -> tuple[type[Exception], ...]:
    """What Pillow raises where a file is damaged, cut short or far too large."""
    from PIL import Image

    return (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
