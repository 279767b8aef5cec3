"""Pictures that are otherwise written as files, as PIL images for a notebook."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from qk_lightning.config.run_folder import RunFolder

if TYPE_CHECKING:
    from PIL.Image import Image


def sample_grid(runs: Mapping[str, RunFolder]) -> Image | None:
    """Show the samples of several runs below one another: the same prompts, inputs and noise.

    Args:
        runs: run by the label of its line.

    Returns:
        The picture, None where no run has samples.
    """
    from qk_lightning.tracking.sample_grid import write_sample_grid

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "grid.png"
        drawn = write_sample_grid(file, {label: run.samples for label, run in runs.items()})
        return open_picture(file) if drawn else None


def open_picture(file: Path) -> Image:
    """Read a picture whole, so that its file may vanish.

    Args:
        file: the picture.
    """
    from PIL import Image

    with Image.open(file) as picture:
        return picture.convert("RGB")
