from __future__ import annotations

import numpy as np
from PIL import Image
from tiny_world import TinyWorld

from qk_lightning.data.contact_sheet import MIN_SIDE, _wrapped, contact_sheet


class Plain(TinyWorld):
    """Every image has a grey of its own that text does not have."""

    def image(self, row):
        return np.full((3, self.size, self.size), 60 + 9 * row, dtype=np.uint8)


def _greys(path):
    pixels = np.asarray(Image.open(path))
    flat = (pixels == pixels[..., :1]).all(-1)
    values, counts = np.unique(pixels[..., 0][flat], return_counts=True)
    return {int(value) for value, count in zip(values, counts, strict=True) if count > 80**2}


def test_inputs_and_targets_of_every_layout_are_shown_large(tmp_path):
    path = contact_sheet(Plain(size=5), tmp_path / "new" / "sheet.png", per_task=3)
    assert Image.open(path).format == "PNG"
    # text_to_image 0, 1, 2; editing 0, 1 with a source, 7 with a source and a reference (8).
    rows = {0, 1, 2, 7, 8}
    assert _greys(path) - {255} == {60 + 9 * row for row in rows}
    assert Image.open(path).height > 2 * MIN_SIDE


def test_of_a_book_the_beginning_is_drawn():
    lines = _wrapped("a very long prompt " * 200_000, 200)
    assert len(lines) < 100
    assert lines[-1].endswith("...")


def test_a_long_prompt_and_an_empty_one_are_drawn(tmp_path):
    class Wordy(Plain):
        def sample(self, task, split, index):
            sample = super().sample(task, split, index)
            prompt = "" if index else "a very long prompt " * 30 + "x" * 200
            object.__setattr__(sample, "prompt", prompt)
            return sample

    tall = Image.open(contact_sheet(Wordy(), tmp_path / "tall.png"))
    short = Image.open(contact_sheet(Plain(), tmp_path / "short.png"))
    assert tall.height > short.height + 200


def test_large_images_are_not_shrunk(tmp_path):
    path = contact_sheet(Plain(size=200), tmp_path / "large.png", per_task=1)
    assert Image.open(path).width >= 200
