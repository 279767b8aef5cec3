"""Random numbers that belong to a sample: noise, noise level and dropout.

Each is a function of (seed, purpose, global sample index), drawn on the CPU. So members of a
sweep see the same noise, any number of ranks draws the same, and a resume has nothing to restore.
B = number of samples.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def _generator(seed: int, purpose: str, index: int) -> np.random.Generator:
    digest = hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=16).digest()
    key = int.from_bytes(digest, "little")
    # The index counts in a high word, so that no two samples share a stretch of the stream.
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, index, 0]))


def normal(seed: int, purpose: str, indices: Tensor, shape: Sequence[int]) -> Tensor:
    """Draw standard normal numbers for each sample.

    Args:
        seed: the run's seed.
        purpose: what they are for, such as `noise`.
        indices: [B] global sample indices.
        shape: the shape for one sample.

    Returns:
        [B, *shape] float32, on the indices' device.
    """
    draws = [
        _generator(seed, purpose, int(index)).standard_normal(tuple(shape), dtype=np.float32)
        for index in indices.tolist()
    ]
    return torch.from_numpy(np.stack(draws)).to(indices.device)


def uniform(seed: int, purpose: str, indices: Tensor) -> Tensor:
    """Draw one number in (0, 1) for each sample.

    Args:
        seed: the run's seed.
        purpose: what it is for, such as `sigma`.
        indices: [B] global sample indices.

    Returns:
        [B] float32, on the indices' device.
    """
    draws = [_generator(seed, purpose, int(index)).random() for index in indices.tolist()]
    tiny = 1e-6
    return torch.tensor(draws, dtype=torch.float32, device=indices.device).clamp(tiny, 1 - tiny)


def stratified(count: int) -> Tensor:
    """Return `count` levels that fill (0, 1) evenly, in an order that any prefix is spread too.

    The golden-ratio sequence: the noise levels of a validation set, without luck.

    Args:
        count: how many.

    Returns:
        [count] float32 in (0, 1).
    """
    golden = 0.6180339887498949
    return ((torch.arange(count, dtype=torch.float64) + 0.5) * golden % 1.0).float().clamp(1e-6, 1)
