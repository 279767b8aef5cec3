"""What a device can do at most, measured at the start of a run: the ceiling of its utilisation."""

from __future__ import annotations

import functools
import time

import torch

SECONDS = 0.1  # of measuring; the first product, which loads kernels, comes on top
SIZES = {"cpu": 512, "cuda": 8192}  # rows and columns: 4 ms on two cores, 2 ms on an H100


def peak_flops(device: torch.device, precision: str) -> float:
    """Measure the operations per second of a square matrix product; once a process.

    It is what this device reaches now, beside whatever else runs there, and not what its data
    sheet says. No random number is drawn.

    Args:
        device: the run's device.
        precision: `trainer.precision`; float32 products use TF32 where the run's do.

    Returns:
        The best of several products, a multiplication and an addition being two operations.
    """
    return _measured(device, dtype_of(precision), torch.get_num_threads())


def dtype_of(precision: str) -> torch.dtype:
    """Return in what a precision's matrix products are computed.

    Args:
        precision: `trainer.precision`.
    """
    if precision.startswith("bf16"):
        return torch.bfloat16
    return torch.float16 if precision.startswith("16") else torch.float32


@functools.cache
def _measured(device: torch.device, dtype: torch.dtype, threads: int) -> float:
    size = SIZES.get(device.type, 2048)
    if device.type == "cuda" and dtype == torch.float32:
        size //= 2
    matrix = torch.ones(size, size, dtype=dtype, device=device)
    result = torch.empty_like(matrix)
    with torch.no_grad():
        best, end = _product(matrix, result), time.perf_counter() + SECONDS
        while time.perf_counter() < end:
            best = min(best, _product(matrix, result))
    if device.type == "cuda":
        del matrix, result
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    return 2 * size**3 / best


def _product(matrix: torch.Tensor, result: torch.Tensor) -> float:
    if matrix.is_cuda:
        torch.cuda.synchronize(matrix.device)
    begun = time.perf_counter()
    torch.mm(matrix, matrix, out=result)
    if matrix.is_cuda:
        torch.cuda.synchronize(matrix.device)
    return time.perf_counter() - begun
