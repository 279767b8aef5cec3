from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from lightning.fabric.utilities import move_data_to_device
from tiny_world import TinyWorld

from qk_lightning.data.collate import Collate, spread, to_pixels, to_unit
from qk_lightning.data.mixture import Draw
from qk_lightning.data.sample import Batch, Sample


def _draws(task, *indices):
    return [Draw(task, index, 100 + index) for index in indices]


def test_schema_does_not_import_torch():
    code = "import sys, qk_lightning.data.sample; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_sample_refuses_unknown_task_and_roles_without_images():
    with pytest.raises(ValueError, match="task 'edit'"):
        Sample("a", "edit", "", (), (), 0)
    with pytest.raises(ValueError, match="1 images with roles"):
        Sample("a", "editing", "", (3,), (), 0)
    with pytest.raises(ValueError, match="expected one of"):
        Sample("a", "editing", "", (3,), ("style",), 0)


def test_pixels_map_to_unit_range_and_back():
    pixels = np.arange(256, dtype=np.uint8)
    images = to_unit(pixels)
    assert images.min() == -1 and images.max() == 1
    torch.testing.assert_close(images, torch.arange(256) / 127.5 - 1)
    assert (to_pixels(images) == pixels).all()


def test_batch_without_images():
    batch = Collate(TinyWorld())(_draws("text_to_image", 2, 5))
    assert (batch.images, batch.image_latents, batch.edit_mask) == (None, None, None)
    assert batch.target.shape == (2, 3, 4, 4) and batch.target.dtype == torch.float32
    assert batch.index.tolist() == [102, 105] and batch.prompts == ["p2", "p5"]
    assert batch.batch_size == 2


def test_batch_with_images_keeps_rows_and_roles_together():
    batch = Collate(TinyWorld())(_draws("editing", 7, 8, 9))
    assert batch.roles == ("source", "reference") and batch.images.shape == (3, 2, 3, 4, 4)
    assert (to_pixels(batch.images)[:, :, 0, 0, 0] == [[7, 8], [8, 9], [9, 10]]).all()
    assert (to_pixels(batch.target)[:, 0, 0, 0] == [7, 8, 9]).all()
    # The sample without a mask may change everywhere.
    assert batch.edit_mask.dtype == torch.bool
    assert batch.edit_mask.sum(dim=(1, 2)).tolist() == [4, 16, 4]


def test_mixed_layouts_are_refused():
    with pytest.raises(ValueError, match="different layouts"):
        Collate(TinyWorld())(_draws("editing", 6, 7))


def test_lightning_moves_a_batch_to_a_device():
    batch = Collate(TinyWorld())(_draws("editing", 0, 1))
    moved = move_data_to_device(batch, torch.device("meta"))
    assert isinstance(moved, Batch)
    assert {moved.images.device.type, moved.target.device.type, moved.index.device.type} == {"meta"}
    assert moved.edit_mask.device.type == "meta" and moved.target_latents is None
    assert (moved.ids, moved.roles, moved.facts) == (batch.ids, batch.roles, batch.facts)


def test_spread_takes_the_first_of_each_layout_in_proportion():
    world = TinyWorld()
    assert spread(world, "text_to_image", "train", 4) == [[0, 1, 2, 3]]
    assert spread(world, "editing", "val", 3) == [[0], [2, 3]]
    assert spread(world, "editing", "train", 99) == [list(range(7)), list(range(7, 12))]
    for count in range(13):
        chosen = spread(world, "editing", "train", count)
        assert sum(map(len, chosen)) == count
        assert all(len({index < 7 for index in of}) == 1 for of in chosen)
