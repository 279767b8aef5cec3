"""What is computed once and kept under cache_root(): who builds, who waits, what is trusted.

A finished file is read without a lock. A missing or damaged one is built by one process, under
a lock and aside of its place, while the others wait.
Shapes: R images of a world, 3 colours, S pixels a side.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from qk_lightning.config.atomic import aside
from qk_lightning.config.locks import FolderLock
from qk_lightning.config.paths import cache_root
from qk_lightning.data.sample import Progress

IMAGE_TABLE_LIMIT = 2 * 1024**3  # bytes; larger worlds are decoded on the fly


def build_once(path: Path, is_whole: Callable[[Path], bool], build: Callable[[Path], None]) -> None:
    """Makes a file unless it is there and whole; of several processes one builds, the rest wait.

    Args:
        path: The file.
        is_whole: Tells whether the file exists and can be trusted; called without a lock.
        build: Writes the file to the path it is given.
    """
    if is_whole(path):
        return
    with FolderLock(cache_root() / "locks" / path.name):
        if is_whole(path):  # made by another process while this one waited
            return
        if path.exists():
            warnings.warn(f"{path} is damaged or of another shape: it is made anew", stacklevel=2)
        with aside(path) as temporary:
            build(temporary)


def image_table(
    path: Path,
    num_images: int,
    size: int,
    image: Callable[[int], np.ndarray],
    progress: Progress | None = None,
) -> np.ndarray:
    """Opens the uint8 table of a world's images, building it first where it is missing.

    Args:
        path: The .npy file.
        num_images: R.
        size: S.
        image: Makes the image of one row, [3, S, S] uint8.
        progress: Called with (done, total) while the table is built.

    Returns:
        [R, 3, S, S] uint8, memory-mapped, read-only.
    """
    shape = (num_images, 3, size, size)

    def is_whole(file: Path) -> bool:
        """Tell whether the file is a table of the wanted shape, to its last byte."""
        try:
            table = np.load(file, mmap_mode="r")  # refuses a file shorter than its header says
        except (OSError, ValueError, EOFError):
            return False
        return table.shape == shape and table.dtype == np.uint8

    def build(file: Path) -> None:
        """Draw every row into the file."""
        table = np.lib.format.open_memmap(file, mode="w+", dtype=np.uint8, shape=shape)
        for row in range(num_images):
            table[row] = image(row)
            if progress is not None:
                progress(row + 1, num_images)
        table.flush()

    build_once(path, is_whole, build)
    return np.load(path, mmap_mode="r")
