"""Reading pictures: what they look like afterwards, and what is no picture."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from qk_lightning.config.errors import ConfigError
from qk_lightning.data.pictures import load_picture


def test_transparency_is_white_and_the_middle_is_kept(root):
    picture = np.zeros((10, 30, 4), dtype=np.uint8)
    picture[:, 10:20] = (255, 0, 0, 255)
    Image.fromarray(picture).save(root / "wide.png")
    assert (load_picture(root / "wide.png", 10)[:, 5, 2:8].T == (255, 0, 0)).all()
    Image.new("LA", (8, 8), (0, 0)).save(root / "clear.png")
    assert (load_picture(root / "clear.png", 4) == 255).all()
    palette = Image.new("RGBA", (8, 8), (0, 0, 0, 0)).quantize(4)
    palette.save(root / "palette.png")
    assert (load_picture(root / "palette.png", 4) == 255).all()


def test_exif_rotation_is_applied(root):
    picture = np.zeros((20, 20, 3), dtype=np.uint8)
    picture[:10] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(picture).save(root / "turned.png", exif=exif)
    image = load_picture(root / "turned.png", 10)
    assert image[:, 1].max() == 0 and image[:, 8].min() == 255


def test_an_open_image_gives_what_its_file_gives(root):
    noise = np.random.default_rng(0).integers(0, 255, (30, 40, 4), dtype=np.uint8)
    Image.fromarray(noise).save(root / "noise.png")
    expected = load_picture(root / "noise.png", 16)
    assert (expected.shape, expected.dtype) == ((3, 16, 16), np.uint8)
    assert (load_picture(Image.fromarray(noise), 16) == expected).all()
    assert (load_picture(str(root / "noise.png"), 16) == expected).all()


def _missing(file):
    return file


def _text(file):
    file.write_text("no picture")
    return file


def _folder(file):
    file.mkdir()
    return file


def _cut_short(file):
    Image.effect_noise((64, 64), 80).save(file)
    file.write_bytes(file.read_bytes()[:1500])
    return file


def _cut_short_but_open(file):
    return Image.open(_cut_short(file))


@pytest.mark.parametrize("make", [_missing, _text, _folder, _cut_short, _cut_short_but_open])
def test_what_is_no_picture_is_named(root, make):
    with pytest.raises(ConfigError, match=r"(?s)picture.*that can be read.*check the path"):
        load_picture(make(root / "it.png"), 8)
