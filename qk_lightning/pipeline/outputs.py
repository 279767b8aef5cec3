"""What a pipeline gives back: PIL images, tensors, arrays or latents.

N pictures of 3 x H x W, in [-1, 1] inside, in [0, 1] outside as in diffusers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from qk_lightning.config.errors import ConfigError, Problem, did_you_mean
from qk_lightning.data.collate import to_pixels

OutputType = Literal["pil", "pt", "np", "latent"]
OUTPUT_TYPES = ("pil", "pt", "np", "latent")
Output = list[Image.Image] | Tensor | list[Tensor] | np.ndarray | list[np.ndarray]


def check_output_type(value: object) -> None:
    """See that an output type is known.

    Args:
        value: what was passed.

    Raises:
        ConfigError: it is not.
    """
    if value not in OUTPUT_TYPES:
        fix = did_you_mean(str(value), OUTPUT_TYPES)
        raise ConfigError(Problem("output_type", value, " | ".join(OUTPUT_TYPES), fix))


def as_output(drawn: Sequence[Tensor], kind: OutputType) -> Output:
    """Turn what was drawn into what was asked for.

    Args:
        drawn: N pictures [3, H, W] in [-1, 1], or for `latent` N latents [C, h, w].
        kind: `pil`; `pt`, [N, 3, H, W] in [0, 1]; `np`, [N, H, W, 3] in [0, 1]; `latent`.

    Returns:
        A list of PIL images; else one tensor or array where all have one size, a list where
        sizes differ.
    """
    if kind == "pil":
        return [Image.fromarray(to_pixels(image).transpose(1, 2, 0)) for image in drawn]
    is_alike = len({item.shape for item in drawn}) == 1
    if kind == "latent":
        return torch.stack(list(drawn)) if is_alike else list(drawn)
    unit = [(image / 2 + 0.5).clamp(0, 1) for image in drawn]
    if kind == "pt":
        return torch.stack(unit) if is_alike else unit
    arrays = [image.permute(1, 2, 0).float().cpu().numpy() for image in unit]
    return np.stack(arrays) if is_alike else arrays
