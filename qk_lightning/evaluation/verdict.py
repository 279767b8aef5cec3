"""What a reader says about one picture. B pictures, 3 channels, H x W pixels.

Readers are in scene_reader.py and avatar_reader.py; which one reads which world, in readers.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True)
class Verdict:
    """One picture held against what was asked for.

    Args:
        correct: Whether everything that was asked for is there, and nothing else.
        score: How much of it is there, 0 to 1.
        reason: What is wrong in plain words; empty where `correct`.
        parts: Named scores, most of them 0 or 1 (the reader's docstring lists them). A part that
            does not apply to an item is absent.
        detections: What the reader saw, plain JSON values.
    """

    correct: bool
    score: float
    reason: str
    parts: dict[str, float] = field(default_factory=dict)
    detections: list[dict[str, Any]] = field(default_factory=list)


class Reader(Protocol):
    """Reads pictures of a world exactly, without a network.

    Args:
        version: Names the rules; goes up whenever a verdict can change.
    """

    version: str

    def verdicts(
        self, images: Any, items: Sequence[Mapping[str, Any]], sources: Any = None
    ) -> list[Verdict]:
        """Hold each picture against its facts.

        Args:
            images: [B, 3, H, W], a tensor or array; float in [-1, 1] or uint8.
            items: `Sample.facts` of each picture.
            sources: The pictures that were edited, as `images`; None where nothing was.

        Returns:
            One verdict a picture, in order.
        """
        ...


def as_uint8(images: Any) -> np.ndarray:
    """Return pictures as the readers want them: [B, 3, H, W] uint8.

    Args:
        images: Tensor or array, float in [-1, 1] (clipped) or uint8.
    """
    if hasattr(images, "detach"):
        images = images.detach().cpu().numpy()
    images = np.asarray(images)
    if images.dtype == np.uint8:
        return images
    return np.rint((np.clip(np.nan_to_num(images), -1, 1) + 1) * 127.5).astype(np.uint8)
