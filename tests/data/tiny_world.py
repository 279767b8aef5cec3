"""A world in memory, for tests: flat-coloured images, two tasks, one of them with two layouts."""

from __future__ import annotations

import numpy as np

from qk_lightning.data.sample import Sample, World


class TinyWorld(World):
    """text_to_image (10 + 3 samples) and editing (7 with a source, 5 with a reference too)."""

    tasks = ("text_to_image", "editing")
    counts = {
        ("text_to_image", "train"): [((), 10)],
        ("text_to_image", "val"): [((), 3)],
        ("editing", "train"): [(("source",), 7), (("source", "reference"), 5)],
        ("editing", "val"): [(("source",), 2), (("source", "reference"), 4)],
    }

    def __init__(self, size: int = 4, num_images: int = 20) -> None:
        self.size = size
        self._num_images = num_images

    def fingerprint(self) -> str:
        return f"tiny-{self.size}-{self._num_images}"

    @property
    def num_images(self) -> int:
        return self._num_images

    def image(self, row: int) -> np.ndarray:
        return np.full((3, self.size, self.size), row % 256, dtype=np.uint8)

    def layouts(self, task, split):
        return self.counts.get((task, split), [])

    def num_samples(self, task, split):
        return sum(count for _, count in self.layouts(task, split))

    def sample(self, task, split, index):
        index %= self.num_samples(task, split)
        of_all = [roles for roles, count in self.layouts(task, split) for _ in range(count)]
        roles = of_all[index]
        mask = np.eye(self.size, dtype=bool) if task == "editing" and index % 2 else None
        rows = tuple(range(index, index + len(roles)))
        name = f"{task}-{split}-{index}"
        return Sample(name, task, f"p{index}", rows, roles, index, {"index": index}, mask)
