"""Pictures that are otherwise written as files, as PIL images for a notebook."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qk_lightning.config.errors import ConfigError, Problem
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


def picture_grid(rows: Mapping[str, Sequence[Image]], columns: Sequence[str]) -> Image:
    """Show pictures in rows with a label each, under columns with a text each.

    Args:
        rows: pictures by the label of their row, one a column.
        columns: what stands above, such as prompts.

    Returns:
        The picture.

    Raises:
        ConfigError: there is no picture, or a row has too many or too few.
    """
    from qk_lightning.tracking.sample_grid import write_sample_grid

    for label, pictures in rows.items():
        if len(pictures) != len(columns):
            expected = f"{len(columns)} pictures, one a column"
            raise ConfigError(Problem(f"rows.{label}", len(pictures), expected, "draw the others"))
    if not rows or not columns:
        raise ConfigError(Problem("rows", len(rows), "a row and a column or more", "give some"))
    items = [{"id": f"{n:03d}", "task": "", "prompt": text} for n, text in enumerate(columns)]
    with tempfile.TemporaryDirectory() as folder:
        samples = {}
        for number, (label, pictures) in enumerate(rows.items()):
            samples[label] = Path(folder) / str(number)
            final = samples[label] / "final"
            final.mkdir(parents=True)
            (final / "prompts.json").write_text(json.dumps(items))
            for item, picture in zip(items, pictures, strict=True):
                picture.save(final / f"{item['id']}.png")
        file = Path(folder) / "grid.png"
        write_sample_grid(file, samples)
        return open_picture(file)
