"""Pictures inside a page, as data URIs that keep to a budget of bytes."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

BUDGET = 6 * 2**20  # characters of all pictures of a page
QUALITY = 85
SMALLEST, LARGEST = 64, 60_000  # pixels, of the longer side; JPEG ends at 65,535


def embed_all(files: Mapping[str, Path], budget: int = BUDGET) -> dict[str, tuple[str, str]]:
    """Turn pictures into data URIs; each has its share of the budget.

    Args:
        files: PNG by name.
        budget: characters that all of them may take.

    Returns:
        Data URI and a note (empty, or how it was made smaller) by name.
    """
    share = budget // max(len(files), 1)
    return {name: embed(file, share) for name, file in files.items()}


def embed(file: Path, budget: int) -> tuple[str, str]:
    """Turn a picture into a data URI: as it is, else as JPEG, else smaller and smaller.

    Args:
        file: a PNG.
        budget: characters that it may take.

    Returns:
        The data URI, and how the picture was changed.
    """
    uri = _uri("image/png", file.read_bytes())
    if len(uri) <= budget:
        return uri, ""
    from PIL import Image

    with Image.open(file) as opened:
        picture: Picture = opened.convert("RGB")
    whole = picture.size
    while max(picture.size) > LARGEST:
        picture = _half(picture)
    while True:
        out = io.BytesIO()
        picture.save(out, "JPEG", quality=QUALITY)
        uri = _uri("image/jpeg", out.getvalue())
        if len(uri) <= budget or max(picture.size) <= SMALLEST:
            break
        picture = _half(picture)
    smaller = "" if picture.size == whole else f", at {picture.width} x {picture.height} pixels"
    return uri, f"as JPEG{smaller} to keep this file small; {file.name} is whole"


def _half(picture: Picture) -> Picture:
    return picture.resize((max(1, picture.width // 2), max(1, picture.height // 2)))


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"
