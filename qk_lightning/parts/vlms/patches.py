"""Images in [-1, 1] as the patch rows that Qwen-VL's vision tower reads, in torch alone.

Equal to transformers' image processor (up to its rounding to 8 bits where it resizes), without
leaving the device and for a whole batch at once. Not here: the vision tower.
Shapes: N images of 3 x H x W pixels; P patches of an image; M = P / merge_size^2 tokens.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor


@dataclass(frozen=True)
class PatchSettings:
    """What preprocessor_config.json says about images.

    Args:
        patch_size: Pixels of a patch's side.
        temporal_patch_size: Frames of a patch; a still image is repeated.
        merge_size: merge_size x merge_size patches become one token.
        min_pixels: Smaller images are enlarged to about this area.
        max_pixels: Larger images are reduced to about this area.
        mean: Of the three channels, of values in [0, 1].
        std: Of the three channels.
    """

    patch_size: int
    temporal_patch_size: int
    merge_size: int
    min_pixels: int
    max_pixels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def read(cls, text: str, *, min_pixels: int | None, max_pixels: int | None) -> PatchSettings:
        """Read the settings from the text of preprocessor_config.json.

        Args:
            text: The file's content.
            min_pixels: In place of the file's; None keeps it.
            max_pixels: In place of the file's; None keeps it.

        Returns:
            The settings.

        Raises:
            ValueError: min_pixels is above max_pixels.
        """
        file: dict[str, Any] = json.loads(text)
        size = file.get("size") or {}
        low = min_pixels or file.get("min_pixels") or size["shortest_edge"]
        high = max_pixels or file.get("max_pixels") or size["longest_edge"]
        if low > high:
            raise ValueError(
                f"min_pixels: {low} is above max_pixels: {high}; expected min_pixels <= "
                f"max_pixels. Give both, or lower min_pixels."
            )
        return cls(
            patch_size=file["patch_size"],
            temporal_patch_size=file["temporal_patch_size"],
            merge_size=file["merge_size"],
            min_pixels=low,
            max_pixels=high,
            mean=tuple(file["image_mean"]),
            std=tuple(file["image_std"]),
        )

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Give the size an image is resized to: whole tokens, area between the limits.

        Args:
            height: Pixels.
            width: Pixels.

        Returns:
            Height and width, multiples of patch_size * merge_size.
        """
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

        factor = self.patch_size * self.merge_size
        return smart_resize(height, width, factor, self.min_pixels, self.max_pixels)


def patchify(images: Tensor, settings: PatchSettings) -> tuple[Tensor, tuple[int, int, int]]:
    """Resize, normalise and cut images into rows of patches.

    Patches are ordered by token: the merge_size x merge_size patches of a token are neighbours.

    Args:
        images: [N, 3, H, W] in [-1, 1].
        settings: Of the model's preprocessor_config.json.

    Returns:
        pixel_values [N * P, 3 * temporal_patch_size * patch_size^2] and the grid (1, rows,
        columns) of patches that all N images share.

    Source:
        transformers, models/qwen2_vl/image_processing_pil_qwen2_vl.py (`patchify`).
    """
    images = resize(images, settings.resized(*images.shape[-2:]))
    mean = images.new_tensor(settings.mean)[:, None, None]
    std = images.new_tensor(settings.std)[:, None, None]
    images = (images * 0.5 + 0.5 - mean) / std
    count, channels, height, width = images.shape
    size, merge, frames = settings.patch_size, settings.merge_size, settings.temporal_patch_size
    rows, columns = height // size, width // size
    cut = (count, channels, rows // merge, merge, size, columns // merge, merge, size)
    patches = images.reshape(cut).permute(0, 2, 5, 3, 6, 1, 4, 7)
    patches = patches[..., None, :, :].expand(*patches.shape[:6], frames, size, size)
    return patches.reshape(count * rows * columns, -1), (1, rows, columns)


def resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize images bicubically with antialiasing, as PIL does but without rounding to 8 bits.

    Args:
        images: [N, 3, H, W] in [-1, 1].
        size: Height and width.

    Returns:
        [N, 3, height, width] in [-1, 1]; the input itself if it has that size.
    """
    if tuple(images.shape[-2:]) == size:
        return images
    resized = F.interpolate(images.float(), size=size, mode="bicubic", antialias=True)
    return resized.clamp(-1, 1).to(images.dtype)


def tokens_of(grid: tuple[int, int, int], settings: PatchSettings) -> int:
    """Count the tokens of one image.

    Args:
        grid: Frames, rows and columns of patches.
        settings: Of the model.

    Returns:
        Number of `<|image_pad|>` tokens.
    """
    return torch.Size(grid).numel() // settings.merge_size**2
