"""Your own pictures: a world described by a jsonl file, one JSON object a line.

    {"prompt": "a red cat", "target": "cat.png"}
    {"prompt": "give it a hat", "target": "hat.png", "images": [{"path": "cat.png",
     "role": "source"}], "task": "editing", "id": "cat-hat", "facts": {"hat": true}}
Shapes: images are [3, S, S] uint8 with S = size.
"""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from typing import Any

import numpy as np

from qk_lightning.config.errors import ConfigError, Problem
from qk_lightning.config.paths import cache_root, resolve_path
from qk_lightning.data.disk_cache import IMAGE_TABLE_LIMIT, image_table
from qk_lightning.data.jsonl_reader import Line, read_records
from qk_lightning.data.pictures import load_picture
from qk_lightning.data.sample import TASKS, Progress, Roles, Sample, Split, World
from qk_lightning.data.worlds.drawn import MAX_SIZE


class Jsonl(World):
    """Samples listed in a jsonl file beside its images; the whole file is checked on opening.

    A line has "prompt" (may be empty) and "target" (an image file, relative to the jsonl), and
    may have "images" (a list of {"path", "role": "source" or "reference"}, at most one source),
    "task" (default: text_to_image without images, editing with a source, else customised),
    "facts" (an object) and "id". Roles may differ between the lines of a task: each combination
    is a layout. Images become RGB squares as `load_picture` makes them. A hash of its id puts a
    line into the val split, at least one of each task that has two or more.

    Args:
        path: The jsonl file, absolute or relative to the project's root.
        size: Pixels of an image's side.
        val_fraction: Share of a task's lines kept for validation, in [0, 1).

    Raises:
        ConfigError: If an argument or anything in the file is wrong; all problems at once.
    """

    version = 1
    paths = ("path",)

    def __init__(self, *, path: str, size: int = 32, val_fraction: float = 0.05) -> None:
        problems = []
        if not 1 <= size <= MAX_SIZE:
            expected = f"1 to {MAX_SIZE}"
            problems.append(Problem("data.world.size", size, expected, "for example 32"))
        if not 0 <= val_fraction < 1:
            expected, fix = "a share from 0 to below 1", "for example 0.05"
            problems.append(Problem("data.world.val_fraction", val_fraction, expected, fix))
        if problems:
            raise ConfigError(problems)
        file = resolve_path(path, "data.world.path")
        if not file.is_file():
            fix = "name the .jsonl file itself, not its folder"
            raise ConfigError(Problem("data.world.path", path, "a file", fix))
        records = read_records(file)
        self.size = size
        self.files = records.files
        self.inputs = [file, *records.files]  # what nobody may write over
        identity = f"jsonl/{self.version}/{size}/{val_fraction}/{records.digest}"
        self._fingerprint = "jsonl-" + hashlib.sha256(identity.encode()).hexdigest()[:16]
        self._splits = _split(records.lines, val_fraction)
        self.tasks = tuple(task for task in TASKS if (task, "train") in self._splits)
        self._table: np.ndarray | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leaves the pixels out: a loader's worker opens the table itself."""
        return {**self.__dict__, "_table": None, "_was_prepared": self._table is not None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Opens the table again if it was open."""
        was_prepared = state.pop("_was_prepared")
        self.__dict__.update(state)
        if was_prepared:
            self.prepare()

    def fingerprint(self) -> str:
        """A hash of the jsonl, of all image files, and of the arguments."""
        return self._fingerprint

    def prepare(self, progress: Progress | None = None) -> None:
        """Decodes all images into one table on disk; above 2 GiB they stay decoded on the fly.

        Args:
            progress: Called with (done, total) as images are decoded.

        Raises:
            ConfigError: If an image turns out to be broken.
        """
        fits = self.num_images * 3 * self.size**2 < IMAGE_TABLE_LIMIT
        if self._table is None and fits:
            path = cache_root() / "worlds" / f"{self._fingerprint}.npy"
            self._table = image_table(path, self.num_images, self.size, self._decode, progress)

    @property
    def num_images(self) -> int:
        """The number of image files, each counted once."""
        return len(self.files)

    def image(self, row: int) -> np.ndarray:
        """Returns image `row`: [3, size, size] uint8."""
        return self._decode(row) if self._table is None else np.array(self._table[row])

    def _decode(self, row: int) -> np.ndarray:
        return load_picture(self.files[row], self.size)

    def num_samples(self, task: str, split: Split) -> int:
        """The number of lines of a task in a split."""
        return len(self._splits.get((task, split), ()))

    def sample(self, task: str, split: Split, index: int) -> Sample:
        """Returns line `index` (modulo their number) of a task and split, sorted by roles.

        Args:
            task: One of `tasks`.
            split: "train" or "val".
            index: From 0.

        Returns:
            The sample, without an edit mask.
        """
        lines = self._splits[task, split]
        line = lines[index % len(lines)]
        return Sample(line.id, task, line.prompt, line.images, line.roles, line.target, line.facts)

    def layouts(self, task: str, split: Split) -> list[tuple[Roles, int]]:
        """How many samples of a task have which roles, in the order of the samples."""
        return list(Counter(line.roles for line in self._splits.get((task, split), ())).items())


def _split(lines: list[Line], val_fraction: float) -> dict[tuple[str, str], list[Line]]:
    """Splits each task's lines by a hash of their ids, and sorts them by roles."""
    splits = {}
    for task in sorted({line.task for line in lines}):
        of_task = sorted((line for line in lines if line.task == task), key=_draw)
        num_val = sum(_draw(line) < val_fraction for line in of_task)
        num_val = min(max(num_val, 1), len(of_task) - 1)
        if num_val == 0:
            warnings.warn(
                f"{task} has one line only: it is used for training and for validation; add lines",
                stacklevel=3,
            )
        parts = {"train": of_task[num_val:], "val": of_task[:num_val] or of_task}
        for split, part in parts.items():
            splits[task, split] = sorted(part, key=lambda line: line.roles)
    return splits


def _draw(line: Line) -> float:
    """A number in [0, 1) that stands for a line's id."""
    return int.from_bytes(hashlib.sha256(line.id.encode()).digest()[:8], "big") / 2**64
