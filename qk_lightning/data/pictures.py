"""Reading a picture of the user's: one way from a file, or an open image, to a world's pixels.

Not here: which pictures a world has (worlds/), pixels to tensors (collate.py).
Shapes: S pixels a side.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from qk_lightning.config.errors import ConfigError, Problem

if TYPE_CHECKING:
    from PIL import Image


def load_picture(picture: str | Path | Image.Image, size: int) -> np.ndarray:
    """Reads a picture as RGB: EXIF rotation applied, alpha over white, a centred square.

    The short side is resized to `size` (Lanczos) and the long one cropped at the centre.

    Args:
        picture: A file, or an image that is open already.
        size: S, pixels of a side.

    Returns:
        [3, S, S] uint8.

    Raises:
        ConfigError: If there is no such file, or it holds no whole picture.
    """
    from PIL import Image, ImageOps

    unreadable = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
    try:
        if isinstance(picture, Image.Image):
            image = ImageOps.exif_transpose(picture)
        else:
            with Image.open(picture) as opened:
                image = ImageOps.exif_transpose(opened)
        image.load()
    except unreadable as error:
        name = repr(picture) if isinstance(picture, Image.Image) else str(picture)
        expected = f"a picture that can be read ({error})"
        fix = "check the path, or save it again as PNG or JPEG"
        raise ConfigError(Problem("picture", name, expected, fix)) from error
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    image = ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.LANCZOS)
    return np.asarray(image).transpose(2, 0, 1).copy()
