"""The small teachers: a codec with unit variance, a VLM that is asked questions, both exported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from qk_lightning.assembly.build import build_part, open_world
from qk_lightning.assembly.export import export_part
from qk_lightning.assembly.weights import starting_entries
from qk_lightning.config.chain import plan_chain
from qk_lightning.config.errors import ConfigError
from qk_lightning.sweeps.stage import run_stage
from qk_lightning.systems.base import build_system

pytestmark = pytest.mark.usefixtures("tiny_presets")


def write_preset(folder: Path, name: str, system: str, family: str) -> None:
    """Write a preset that trains one part of the tiny chain alone."""
    base = OmegaConf.load(folder / "base.yaml")
    values = {key: base[key] for key in ("seed", "data", "trainer", "validation", "tracking")}
    values |= {family: base[family], "system": {"name": system}, "trainable": {family: "full"}}
    values["data"]["tasks"] = {"text_to_image": 1, "multi_subject": 1}
    (folder / f"{name}.yaml").write_text(OmegaConf.to_yaml(values))


def test_a_codec_is_trained_measured_and_exported(tiny_presets: Path, root: Path) -> None:
    write_preset(tiny_presets, "codec", "autoencoder", "autoencoder")
    run = plan_chain("tiny/codec")[0].write()
    run_stage(run.path)
    assert "val/psnr" in run.last_metrics()
    folder = root / "codec"
    export_part(run, "autoencoder", folder)
    assert len(json.loads((folder / "config.json").read_text())["latents_std"]) == 4
    assert run.identity in (folder / "CARD.md").read_text()
    codec = build_part("autoencoder", OmegaConf.create({"name": "kl", "path": str(folder)}), 0, {})
    codec.load_base()
    images = torch.rand(4, 3, 32, 32) * 2 - 1
    assert codec.encode(images).shape == (4, 4, 4, 4)
    with pytest.raises(ConfigError, match="does not exist"):
        export_part(run, "autoencoder", folder)
    with pytest.raises(ConfigError, match="a part of"):
        export_part(run, "head", root / "head")


@pytest.mark.parametrize("name", ["dc", "qwen_image", "tiny"])
def test_other_codecs_are_trained_and_scaled_too(name: str, tiny_presets: Path) -> None:
    write_preset(tiny_presets, "codec", "autoencoder", "autoencoder")
    cfg = plan_chain("tiny/codec", [f"autoencoder={name}", "global_batch_size=2"])[0].cfg
    system = build_system(cfg, starting_entries(cfg, ("autoencoder",), None))
    system.configure_model()
    world = open_world(cfg.data.world)
    world.prepare()
    data = system.data_module(world, None)
    logged = {}
    system.log = lambda name, value, **_: logged.update({name: value})
    system.log_dict = lambda values, **_: logged.update(values)
    batch = next(iter(data.train_dataloader()))
    system.training_step(batch, 0).backward()
    assert all(p.grad.isfinite().all() for p in system.parameters())
    assert (logged["train/kl"] > 0) == (name == "qwen_image")
    before = system.autoencoder.encode(batch.target).square().mean()
    system.on_trained(data)
    after = system.autoencoder.encode(batch.target).square().mean()
    assert 0.2 < after < 5 and (after - 1).abs() < (before - 1).abs()


def test_a_vlm_is_asked_and_exported(tiny_presets: Path, root: Path) -> None:
    write_preset(tiny_presets, "teacher", "understanding", "vlm")
    plan = plan_chain("tiny/teacher", ["validation.num_samples=24", "max_steps=3"])[0]
    run = plan.write()
    run_stage(run.path)
    metrics = run.last_metrics()
    assert 0 <= metrics["val/accuracy/image"] <= 1
    assert "val/accuracy/text" in metrics
    for kind in ("look", "read"):
        key = f"eval/understanding/avatars/{kind}"
        assert metrics[f"{key}/accuracy"] <= 1 and 0 < metrics[f"{key}/chance"] < 1
    assert 0 <= metrics["eval/understanding/avatars/describe/words"] <= 1
    folder = root / "vlm"
    export_part(run, "vlm", folder, half=False)
    trained = build_part(
        "vlm", OmegaConf.create({"name": "qwen2_5_vl", "path": str(folder)}), 0, {}
    )
    trained.load_base()
    start = build_part("vlm", plan.cfg.vlm, 0, {})
    start.load_base()
    moved = [
        not torch.equal(a, b) for a, b in zip(start.parameters(), trained.parameters(), strict=True)
    ]
    assert any(moved)
