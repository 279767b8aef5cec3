"""The scenes' reader on pictures that the library's renderer did not draw, and on worn ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy import ndimage

from qk_lightning.data.worlds.scene_art import render
from qk_lightning.data.worlds.scene_draw import SceneDrawer
from qk_lightning.data.worlds.scene_graph import (
    BACKGROUNDS,
    COLOURS,
    SHAPES,
    SMALL_SHAPES,
    Scene,
    SceneObject,
)
from qk_lightning.data.worlds.scene_split import HeldOut
from qk_lightning.evaluation import scene_reader, scene_reading
from qk_lightning.evaluation.scene_reader import SceneReader
from qk_lightning.evaluation.scene_reading import UNKNOWN

NUM_SCENES = 24
DETAIL = 4  # PIL draws so many times larger


def scenes(size, count=NUM_SCENES, seed=0):
    shapes = SMALL_SHAPES if size < 64 else SHAPES
    drawer = SceneDrawer(shapes, HeldOut(shapes, 0))
    rng = np.random.default_rng(seed)
    tags = ("counting", "position", "three_object", "size")
    return [drawer.scene(tags[number % len(tags)], rng) for number in range(count)]


def shown(reading):
    return sorted((item.shape, item.colour) for item in reading.objects), reading.background


def expected(scene):
    return sorted((item.shape, item.colour) for item in scene.objects), scene.background


def worn(image, kind, amount, rng):
    if kind == "noise":
        image = (image + rng.normal(0, 255 * amount, image.shape)).clip(0, 255)
    elif kind == "blur":
        image = ndimage.gaussian_filter(image.astype(float), (0, amount, amount), mode="nearest")
    return np.rint(image).astype(np.uint8)


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize(
    ("kind", "amount"),
    [("clean", 0), ("noise", 0.03), ("noise", 0.08), ("blur", 0.7), ("blur", 1.2)],
)
def test_reads_every_object_of_worn_pictures(size, kind, amount):
    rng, reader = np.random.default_rng(1), SceneReader(size)
    for scene in scenes(size):
        reading = reader.read(worn(render(scene, size), kind, amount, rng))
        assert shown(reading) == expected(scene)
        for item in scene.objects:
            nearest = min(reading.objects, key=lambda o: math.hypot(o.x - item.x, o.y - item.y))
            assert math.hypot(nearest.x - item.x, nearest.y - item.y) < 0.5 / size
            assert nearest.size == pytest.approx(item.size, rel=0.08)


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("filter_", [Image.Resampling.BOX, Image.Resampling.LANCZOS])
def test_reads_pictures_from_another_renderer(size, filter_):
    """Other proportions, sizes, places and slightly other colours."""
    rng, reader = np.random.default_rng(2), SceneReader(size)
    for scene in scenes(size, seed=1):
        assert shown(reader.read(drawn_by_pil(scene, size, filter_, rng))) == expected(scene)


def drawn_by_pil(scene, size, filter_, rng):
    side = DETAIL * size

    def off(colour):
        return tuple(int(v) for v in np.clip(np.add(colour, rng.integers(-8, 9, 3)), 0, 255))

    back = off(BACKGROUNDS[scene.background])
    image = Image.new("RGB", (side, side), back)
    for item in scene.objects:
        x, y = (value * side + rng.uniform(-1, 1) * side / 100 for value in (item.x, item.y))
        radius = item.size * side * rng.uniform(0.93, 1.07)
        draw_shape(ImageDraw.Draw(image), item.shape, x, y, radius, off(COLOURS[item.colour]), back)
    return np.asarray(image.resize((size, size), filter_)).transpose(2, 0, 1)


def draw_shape(draw, shape, x, y, r, colour, back):
    """Draw shapes as one would without knowing the library's outlines."""
    if shape == "circle":
        draw.ellipse([x - r, y - r, x + r, y + r], fill=colour)
    elif shape == "square":
        draw.rectangle([x - 0.9 * r, y - 0.9 * r, x + 0.9 * r, y + 0.9 * r], fill=colour)
    elif shape == "triangle":  # as high as wide
        a = 1.2 * r
        draw.polygon([(x, y - 4 / 3 * a), (x - a, y + a * 2 / 3), (x + a, y + a * 2 / 3)], colour)
    elif shape == "cross":
        a, b = 1.2 * r, 0.42 * r
        draw.rectangle([x - a, y - b, x + a, y + b], fill=colour)
        draw.rectangle([x - b, y - a, x + b, y + a], fill=colour)
    elif shape == "ring":
        draw.ellipse([x - 1.15 * r, y - 1.15 * r, x + 1.15 * r, y + 1.15 * r], fill=colour)
        draw.ellipse([x - 0.6 * r, y - 0.6 * r, x + 0.6 * r, y + 0.6 * r], fill=back)
    elif shape == "diamond":
        a = 1.25 * r
        draw.polygon([(x, y - a), (x + a, y), (x, y + a), (x - a, y)], colour)
    elif shape == "star":
        turns = [(1.6 * r * (0.42 if k % 2 else 1), math.pi * (k / 5 - 0.5)) for k in range(10)]
        draw.polygon([(x + a * math.cos(t), y + a * math.sin(t)) for a, t in turns], colour)
    else:
        a = 0.72 * r
        for left in (-1.9 * a, -0.1 * a):
            draw.ellipse([x + left, y - 1.3 * a, x + left + 2 * a, y + 0.6 * a], fill=colour)
        points = [(x - 1.75 * a, y + 0.1 * a), (x + 1.75 * a, y + 0.1 * a), (x, y + 1.9 * a)]
        draw.polygon(points, colour)


def test_objects_of_different_colours_may_touch():
    one = SceneObject("square", "red", 0.3, 0.5, 0.2)
    two = SceneObject("circle", "blue", 0.3 + 0.2 * math.sqrt(math.pi) / 2 + 0.2, 0.5, 0.2)
    scene = Scene((one, two), "cream")
    assert shown(SceneReader(32).read(render(scene, 32))) == expected(scene)


def test_objects_of_one_colour_that_overlap_are_one_of_no_known_shape():
    one = SceneObject("circle", "red", 0.4, 0.5, 0.2)
    two = SceneObject("circle", "red", 0.65, 0.5, 0.2)
    [item] = SceneReader(32).read(render(Scene((one, two), "grey"), 32)).objects
    assert item.shape == UNKNOWN and item.colour == "red"


def test_a_blob_is_of_no_known_shape_and_a_speck_is_nothing():
    picture = np.empty((3, 32, 32), np.uint8)
    picture[:] = np.array(BACKGROUNDS["grey"])[:, None, None]
    picture[:, 8:10, 5:7] = 255
    assert SceneReader(32).read(picture).objects == ()
    picture[:, 6:9, 4:28] = 20  # a long bar with a knob
    picture[:, 9:20, 22:28] = 20
    [item] = SceneReader(32).read(picture).objects
    assert item.shape == UNKNOWN


def test_reads_marks():
    rng = np.random.default_rng(0)
    for size in (32, 64):
        drawer = SceneDrawer(SMALL_SHAPES, HeldOut(SMALL_SHAPES, 0))
        for shape in ("circle", "square", "triangle") * 4:
            subject = drawer.subject(shape, rng, held_out=False).objects[0]
            scene = drawer.elsewhere(subject, rng)
            [item] = SceneReader(size).read(render(scene, size)).objects
            seen = (item.shape, item.colour, item.mark, item.mark_colour)
            assert seen == scene.objects[0].identity


def test_takes_floats_and_refuses_wrong_shapes():
    scene = scenes(32, 1)[0]
    picture = render(scene, 32)
    reader = SceneReader(32)
    floats = picture.astype(np.float32) / 127.5 - 1
    assert reader.read(floats) == reader.read(picture)
    with pytest.raises(ValueError, match="one picture of the world's size for each"):
        reader.verdicts(picture[None], [{}, {}])
    broken = np.full((1, 3, 32, 32), np.nan, np.float32)
    facts = {"include": [{"class": "circle", "count": 1}], "scene": scene.to_dict()}
    assert not reader.verdicts(broken, [facts])[0].correct


def test_several_processes_read_what_one_does(monkeypatch):
    some = scenes(32, 4)
    pictures = np.stack([render(scene, 32) for scene in some])
    reader = SceneReader(32)
    alone = [reader.read(picture) for picture in pictures]
    monkeypatch.setattr(scene_reader, "PER_PROCESS", 2)
    assert reader._read_all(pictures) == alone


@pytest.mark.parametrize("size", [32, 64])
def test_what_is_tried_is_bounded_whatever_a_picture_holds(size, monkeypatch):
    tried = []
    fit = scene_reading.fit_shape
    monkeypatch.setattr(scene_reading, "fit_shape", lambda *a: tried.append(1) or fit(*a))
    smear = np.random.default_rng(0).normal(128, 600, (3, size, size))
    smear = ndimage.gaussian_filter(smear, (0, size / 16, size / 16)).clip(0, 255)
    picture = np.full((3, size, size), 240, np.uint8)
    inner = np.s_[:, size // 6 : -size // 6, size // 6 : -size // 6]
    picture[inner] = smear[inner]
    SceneReader(size).read(picture)
    assert 1 < len(tried) <= 2 * scene_reading._MOST_FITS
