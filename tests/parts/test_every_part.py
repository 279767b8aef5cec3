"""Every part of every family: builds as its YAML says, learns where it may, and nowhere else."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch

from qk_lightning.bench.tiny_vlms import MAKERS, make_tiny_vlm
from qk_lightning.config.layers import load_layers
from qk_lightning.config.paths import package_root
from qk_lightning.config.schema import FAMILIES, PART_FAMILIES, names_of, schema_of

EXPERIMENTS = package_root().parent / "experiments"
ALL = [file for family in PART_FAMILIES for file in sorted((EXPERIMENTS / family).glob("*.yaml"))]
WIRED = {"latent_channels": 32, "hidden_size": 32, "input_size": 32, "output_size": 24}
WIRED["num_layers"] = 3
# Their gradient is exactly zero: the head's pooled input is zero.
WITHOUT_GRADIENT = ("text_embedder.linear_1.weight",)
# A vision tower's last norm, which LLaVA-OneVision reads before.
WITHOUT_USE = (".vision_tower.post_layernorm.weight", ".vision_tower.post_layernorm.bias")


def options_of(file: Path) -> dict:
    values = load_layers(file)[0].values
    return dict(
        values["data"]["world"] if file.parent.name == "world" else values[file.parent.name]
    )


def is_large(file: Path) -> bool:
    """Tell the YAMLs of published sizes, from the hub or from options: none fits a test."""
    if file.parent.name == "vlm":  # they have tiny checkpoints
        return False
    path = options_of(file).get("path", "builtin:")
    return file.stem.startswith("mmdit_") or not path.startswith("builtin:")


FILES = [file for file in ALL if not is_large(file)]
EACH_FILE = pytest.mark.parametrize("file", FILES, ids=lambda f: f"{f.parent.name}/{f.stem}")


def class_of(family: str, name: str) -> type:
    schema = schema_of(family, name)
    return getattr(importlib.import_module(schema.module), schema.class_name)


@pytest.fixture(scope="module")
def tiny_folders(tmp_path_factory):
    """A checkpoint for each VLM whose YAML names one that is not in the package."""
    root = tmp_path_factory.mktemp("vlms")
    return {name: make_tiny_vlm(name, root / name) for name in MAKERS}


def build(file: Path, tiny_folders: dict):
    options = options_of(file)
    name = options.pop("name")
    part_class = class_of(file.parent.name, name)
    if file.parent.name == "vlm" and name in tiny_folders:
        options |= {"path": str(tiny_folders[name]), "dtype": "float32"}
    torch.manual_seed(0)
    sizes = {**WIRED, "output_size": 32} if part_class.__name__ == "Identity" else WIRED
    part = part_class(**options, **{key: sizes[key] for key in part_class.wired})
    assert part.load_base() == ("path" in options)
    return part


# Each gives the loss of a part, and the input that a gradient must reach even if it is frozen.


def run_vlm(part):
    images = torch.rand(2, 1, 3, 32, 32) * 2 - 1 if part.reads_images else None
    inputs = part.prepare(["what hair?", "who"], images)
    queries = torch.randn(2, 3, part.hidden_size, requires_grad=True)
    loss = part(inputs, queries).kontext.square().mean()
    return loss + part.language_loss(inputs, ["red", "nobody"]), queries


def run_queries(part):
    return part(2, lambda shape: torch.randn(2, *shape)).square().mean(), None


def run_connector(part):
    states = torch.randn(2, 4, WIRED["input_size"], requires_grad=True)
    condition = part(states, torch.ones(2, 4).bool())
    return (condition - torch.randn_like(condition)).square().mean(), states


def run_head(part):
    shape = (WIRED["latent_channels"], 4, 4)
    noisy = torch.randn(2, *shape, requires_grad=True)
    condition, mask = torch.randn(2, 3, part.condition_size), torch.ones(2, 3).bool()
    pictures, roles = torch.randn(2, 2, *shape), ("source", "reference")
    return part(noisy, torch.rand(2), condition, mask, pictures, roles).square().mean(), noisy


def run_autoencoder(part):
    images = (torch.rand(2, 3, 32, 32) * 2 - 1).requires_grad_()
    latents = part.encode(images, sample=True)
    assert latents.shape == (2, part.latent_channels, 32 // part.stride, 32 // part.stride)
    return part.decode(latents).square().mean(), images


def run_objective(part):
    velocity = torch.randn(2, 4, 2, 2, requires_grad=True)
    return part.loss(velocity, torch.randn(2, 4, 2, 2), torch.randn(2, 4, 2, 2)).mean(), velocity


RUNS = {
    "vlm": run_vlm,
    "queries": run_queries,
    "connector": run_connector,
    "head": run_head,
    "autoencoder": run_autoencoder,
    "objective": run_objective,
}


@pytest.mark.parametrize("family", PART_FAMILIES)
def test_every_part_has_a_yaml(family):
    named = {options_of(file)["name"] for file in FILES if file.parent.name == family}
    assert named == set(names_of(family))


@EACH_FILE
def test_it_trains_two_steps(file, tiny_folders):
    part = build(file, tiny_folders).train().requires_grad_(True)
    before = {name: value.detach().clone() for name, value in part.named_parameters()}
    if not before:
        return
    optimizer = torch.optim.AdamW(part.parameters(), lr=1e-3, weight_decay=0.0)
    for _ in range(2):
        optimizer.zero_grad()
        loss, _ = RUNS[file.parent.name](part)
        loss.backward()
        optimizer.step()
    assert torch.isfinite(loss)
    for name, value in part.named_parameters():
        if not value.requires_grad:  # what a part never reads stays frozen
            assert value.grad is None and torch.equal(value, before[name]), name
            continue
        if name.endswith(WITHOUT_USE):
            continue
        assert value.grad is not None and value.grad.isfinite().all(), name
        assert name.endswith(WITHOUT_GRADIENT) or not torch.equal(value, before[name]), name


@EACH_FILE
def test_frozen_it_passes_the_gradient_on_and_keeps_none(file, tiny_folders):
    part = build(file, tiny_folders).requires_grad_(False)
    loss, entered = RUNS[file.parent.name](part)
    assert loss.requires_grad is (entered is not None)
    if entered is not None:
        loss.backward()
        assert entered.grad.isfinite().all() and entered.grad.any()
    assert all(value.grad is None for value in part.parameters())


def test_every_world_has_a_yaml_and_builds(root):
    from PIL import Image

    files = {options_of(file)["name"]: file for file in sorted(EXPERIMENTS.glob("world/*.yaml"))}
    assert set(files) == set(names_of("world")) and "world" in FAMILIES
    Image.new("RGB", (40, 30), "red").save(root / "0.png")
    (root / "list.jsonl").write_text('{"prompt": "red", "target": "0.png"}\n' * 2)
    for name, file in files.items():
        options = {k: v for k, v in options_of(file).items() if k != "name"}
        if "path" in options:
            options["path"] = str(root / "list.jsonl")
        world = class_of("world", name)(**options)
        sample = world.sample("text_to_image", "train", 0)
        assert sample.prompt and sample.target < world.num_images
