"""Sizes that codecs take and refuse: tiles, whole cells, lists that fit together."""

from __future__ import annotations

import pytest
import torch
from test_diffusers_codecs import EACH, images, loaded, saved

from qk_lightning.parts.autoencoders.dc import DC
from qk_lightning.parts.autoencoders.kl import KL
from qk_lightning.parts.autoencoders.linear import Linear
from qk_lightning.parts.autoencoders.pixels import Pixels
from qk_lightning.parts.autoencoders.qwen_image import QwenImage
from qk_lightning.parts.autoencoders.tiny import Tiny


@EACH
@torch.no_grad()
@pytest.mark.parametrize("way", ["encode", "decode"])
def test_tiles_change_little_and_no_shape(name, way, tmp_path):
    saved(name, tmp_path)
    whole, tiled = loaded(name, tmp_path), loaded(name, tmp_path, tile_size=128)
    pictures = images()[:1].repeat(
        1, 1, 12, 10
    )  # alike everywhere, as norms over a tile are its own
    latents = whole.encode(pictures)
    if way == "encode":
        expected, found, cell = latents, tiled.encode(pictures), 1
    else:
        expected, found, cell = whole.decode(latents), tiled.decode(latents), whole.stride
    assert found.shape == expected.shape
    assert not torch.equal(found, expected), "nothing was tiled"
    misplaced = (expected.roll(cell, -1) - expected).norm()
    assert (found - expected).norm() < 0.3 * misplaced, "off by a third of a cell"
    torch.testing.assert_close(tiled(images()), whole(images()))  # within one tile


def test_tiles_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="tile_size: 100, expected a multiple of 64 .* set 64"):
        DC(tile_size=100)
    with pytest.raises(ValueError, match="4 latent channels only and this has 16; leave it out"):
        Tiny(latent_channels=16, tile_size=64)


@pytest.mark.parametrize(
    "part", [KL, DC, QwenImage, Tiny, Linear, Pixels], ids=lambda part: part.__name__
)
def test_pictures_that_are_no_whole_cells_are_refused(part):
    codec = part()
    with pytest.raises(ValueError, match=f"17 x 16 pixels, expected multiples of {codec.stride}"):
        codec.encode(torch.zeros(1, 3, 17, 16))


def test_what_does_not_fit_together_is_refused(tmp_path):
    with pytest.raises(ValueError, match="3, 4 and 4 entries"):
        DC(block_out_channels=[8, 8, 8])
    with pytest.raises(ValueError, match="latent_channels: 24; expected"):
        DC(latent_channels=24)
    with pytest.raises(ValueError, match="'Conv'.*ResBlock or EfficientViTBlock"):
        DC(block_types=["Conv"] * 4)
    with pytest.raises(ValueError, match="the same channels at each level"):
        Tiny(block_out_channels=[8, 16, 16, 16])
    saved("dc", tmp_path)
    with pytest.raises(ValueError, match="holds a AutoencoderDC, expected AutoencoderTiny"):
        Tiny(path=str(tmp_path))
    with pytest.raises(ValueError, match=r"latent_channels: 8, but .* says 4"):
        DC(path=str(tmp_path), latent_channels=8)
