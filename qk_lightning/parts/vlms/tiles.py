"""Images in [-1, 1] as square tiles of one size, for vision towers that take no other.

Equal to transformers' image processors (up to their rounding to 8 bits where they resize), without
leaving the device and for a whole batch at once. Not here: the vision towers.
Shapes: N images of 3 x H x W pixels; tiles of side x side pixels.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from qk_lightning.parts.vlms.patches import resize


@dataclass(frozen=True)
class TileSettings:
    """What preprocessor_config.json says about images.

    Args:
        side: Pixels of a tile's side.
        mean: Of the three channels, of values in [0, 1].
        std: Of the three channels.
        min_tiles: Tiles that an image is cut into at least (InternVL).
        max_tiles: Tiles that an image is cut into at most (InternVL).
        resolutions: Heights and widths that an image is brought to (LLaVA-OneVision).
    """

    side: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    min_tiles: int = 1
    max_tiles: int = 12
    resolutions: tuple[tuple[int, int], ...] = ()

    @classmethod
    def read(cls, text: str, *, max_tiles: int | None = None) -> TileSettings:
        """Read the settings from the text of preprocessor_config.json.

        Args:
            text: The file's content.
            max_tiles: In place of the file's; None keeps it.

        Returns:
            The settings.

        Raises:
            ValueError: A tile is no square.
        """
        file: dict[str, Any] = json.loads(text)
        size = file["size"]
        side = size.get("height") or size["shortest_edge"]
        if size.get("width", side) != side:
            raise ValueError(
                f"preprocessor_config.json: size {size}, expected a square; bring the file of the "
                "checkpoint back."
            )
        return cls(
            side=side,
            mean=tuple(file["image_mean"]),
            std=tuple(file["image_std"]),
            min_tiles=1 if max_tiles else file.get("min_patches", 1),
            max_tiles=max_tiles or file.get("max_patches", 12),
            resolutions=tuple((h, w) for h, w in file.get("image_grid_pinpoints") or ()),
        )


def square_tiles(images: Tensor, settings: TileSettings) -> Tensor:
    """Cut images into rows and columns of tiles, and add the whole where there are several.

    The arrangement is the one whose shape is nearest to the image's; the image is stretched to it.

    Args:
        images: [N, 3, H, W] in [-1, 1].
        settings: Of the model.

    Returns:
        [N, tiles, 3, side, side], normalised, the whole image last.

    Source:
        transformers, models/got_ocr2/image_processing_pil_got_ocr2.py (`crop_image_to_patches`).
    """
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

    side, size = settings.side, (images.shape[-2], images.shape[-1])
    columns, rows = get_optimal_tiled_canvas(
        size, (side, side), settings.min_tiles, settings.max_tiles
    )
    tiles = cut(resize(images, (rows * side, columns * side)), side)
    if rows * columns > 1:
        tiles = torch.cat([tiles, resize(images, (side, side))[:, None]], dim=1)
    return normalise(tiles, settings)


def any_resolution(images: Tensor, settings: TileSettings) -> Tensor:
    """Bring images to the resolution that suits them best, cut it, and put the whole in front.

    The image keeps its shape and is padded with black.

    Args:
        images: [N, 3, H, W] in [-1, 1].
        settings: Of the model.

    Returns:
        [N, 1 + tiles, 3, side, side], normalised, the whole image first.

    Source:
        transformers, models/llava_onevision/image_processing_pil_llava_onevision.py
        (`get_image_patches`).
    """
    from transformers.image_processing_utils import select_best_resolution

    height, width = images.shape[-2:]
    goal = select_best_resolution((height, width), list(settings.resolutions))
    scale = min(goal[0] / height, goal[1] / width)
    size = tuple(
        min(math.ceil(n * scale), most) for n, most in zip((height, width), goal, strict=True)
    )
    top, left = (goal[0] - size[0]) // 2, (goal[1] - size[1]) // 2
    around = (left, goal[1] - size[1] - left, top, goal[0] - size[0] - top)
    framed = F.pad(resize(images, size), around, value=-1.0)
    whole = resize(images, (settings.side, settings.side))
    tiles = torch.cat([whole[:, None], cut(framed, settings.side)], dim=1)
    return normalise(tiles, settings)


def padded_squares(images: Tensor, settings: TileSettings) -> Tensor:
    """Pad images to squares with the mean colour, and resize them to one tile each.

    Args:
        images: [N, 3, H, W] in [-1, 1].
        settings: Of the model.

    Returns:
        [N, 1, 3, side, side], normalised.

    Source:
        transformers, models/llava_onevision/image_processing_pil_llava_onevision.py
        (`pad_to_square`).
    """
    height, width = images.shape[-2:]
    most = max(height, width)
    colour = [int(mean * 255) / 127.5 - 1 for mean in settings.mean]  # rounded as 8 bits are
    square = images.new_tensor(colour)[:, None, None].expand(len(images), 3, most, most).clone()
    top, left = (most - height) // 2, (most - width) // 2
    square[..., top : top + height, left : left + width] = images
    return normalise(resize(square, (settings.side, settings.side))[:, None], settings)


def cut(images: Tensor, side: int) -> Tensor:
    """Cut images into tiles, row by row.

    Args:
        images: [N, 3, rows * side, columns * side].
        side: Pixels of a tile's side.

    Returns:
        [N, rows * columns, 3, side, side].
    """
    rows, columns = images.shape[-2] // side, images.shape[-1] // side
    tiles = images.unflatten(3, (columns, side)).unflatten(2, (rows, side))
    return tiles.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)


def normalise(images: Tensor, settings: TileSettings) -> Tensor:
    """Bring pixels from [-1, 1] to the range that the vision tower was trained on.

    Args:
        images: [..., 3, H, W].
        settings: Of the model.

    Returns:
        (pixels in [0, 1] - mean) / std.
    """
    mean = images.new_tensor(settings.mean)[:, None, None]
    std = images.new_tensor(settings.std)[:, None, None]
    return (images * 0.5 + 0.5 - mean) / std
