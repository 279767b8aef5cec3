"""The suite of roles, and the lenient colours of knowledge, by pictures that are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from qk_lightning.data.worlds.avatars import Avatars
from qk_lightning.data.worlds.scene_art import render
from qk_lightning.data.worlds.scene_graph import Scene
from qk_lightning.data.worlds.scenes import Scenes
from qk_lightning.evaluation.aggregate import summarise_rows
from qk_lightning.evaluation.controls import control_levels
from qk_lightning.evaluation.draw import batch_of, layouts_of
from qk_lightning.evaluation.prompt_set import make_prompt_set
from qk_lightning.evaluation.score import score_pictures
from qk_lightning.evaluation.suite import open_suite


@pytest.fixture(scope="module")
def worlds():
    return {"avatars": Avatars(num_identities=6, num_val=8)}


def test_each_picture_is_drawn_as_a_source_and_as_a_reference(worlds):
    items = make_prompt_set(open_suite("roles"), worlds).items
    half = len(items) // 2
    assert half == worlds["avatars"].num_samples("customised", "val")
    for source, reference in zip(items[:half], items[half:], strict=True):
        assert (source.roles, reference.roles) == (("source",), ("reference",))
        for name in ("prompt", "images", "index", "seed", "cluster"):  # and so the same noise
            assert getattr(source, name) == getattr(reference, name)
        assert source.id != reference.id
    batches = list(layouts_of(items, 4))
    roles = [batch_of(batch, worlds["avatars"]).roles for batch in batches]
    assert set(roles) == {("source",), ("reference",)}
    assert len(make_prompt_set(open_suite("roles"), worlds, 6).items) == 6


def test_it_needs_both_roles_to_be_trained(worlds):
    suite = open_suite("roles")
    assert suite.fits(worlds, ["customised", "editing"])
    assert not suite.fits(worlds, ["customised"])
    assert not suite.fits(worlds, ["editing"])


def test_the_gap_is_what_sources_are_nearer_to_their_input_than_references(worlds):
    world, prompts = worlds["avatars"], make_prompt_set(open_suite("roles"), worlds)
    images = {}
    for item in prompts.items:
        kept = world.image(item.images[0])
        anew = world.image(item.target)
        images[item.id] = kept if item.roles == ("source",) else anew
    rows = score_pictures(prompts.suite, worlds, prompts.items, images)
    metrics = prompts.suite.metrics(prompts.items)
    found = {name: one.value for name, one in summarise_rows(rows, metrics).items()}
    assert found["source_psnr"] == 100
    assert found["reference_psnr"] < 40
    assert found["gap"] == pytest.approx(found["source_psnr"] - found["reference_psnr"])
    half = images | {
        item.id: world.image(item.images[0]) for item in prompts.items[: len(prompts.items) // 4]
    }
    other = {item.id: images[item.id] for item in prompts.items if item.roles == ("source",)}
    swapped = {**half, **{key: 255 - value for key, value in other.items()}}
    rows = score_pictures(prompts.suite, worlds, prompts.items, swapped)
    assert summarise_rows(rows, metrics)["gap"].value < 0


def test_controls_of_roles_have_no_gap(worlds):
    levels = control_levels(make_prompt_set(open_suite("roles"), worlds), worlds, None)
    assert levels["copy"]["source_psnr"] == levels["copy"]["reference_psnr"] == 100
    for control in ("gt", "copy", "blank"):
        assert levels[control]["gap"] == pytest.approx(0)
    assert levels["gt"]["reference_psnr"] < 40  # another shirt, another background


def test_colours_of_knowledge_forgive_the_shape(root):
    worlds = {"scenes": Scenes(num_scenes=8, num_val=8)}
    prompts = make_prompt_set(open_suite("knowledge"), worlds, 40)
    metrics = prompts.suite.metrics(prompts.items)
    right = {item.id: prompts.suite.target(worlds["scenes"], item) for item in prompts.items}
    found = _values(prompts, worlds, right, metrics)
    assert found["colours"] == found["direct_colours"] == 1
    others = {item.id: _other_shape(item) for item in prompts.items}
    found = _values(prompts, worlds, others, metrics)
    assert found["colours"] == 1 > found["overall"]
    grey = {name: np.full_like(image, 128) for name, image in right.items()}
    assert _values(prompts, worlds, grey, metrics)["colours"] == 0


def _values(prompts, worlds, images, metrics):
    rows = score_pictures(prompts.suite, worlds, prompts.items, images)
    return {name: one.value for name, one in summarise_rows(rows, metrics).items()}


def _other_shape(item):
    scene = Scene.from_dict(item.facts["scene"])
    swapped = {"square": "circle"}
    objects = [replace(one, shape=swapped.get(one.shape, "square")) for one in scene.objects]
    return render(replace(scene, objects=tuple(objects)), 32)
