"""Hand-over between stages: merged LoRA is the trained model, and nothing matches nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file

from qk_lightning.assembly.build import build_part, seeded
from qk_lightning.assembly.lora import lora_alpha, merge_lora
from qk_lightning.assembly.replay import replay
from qk_lightning.assembly.trainable import apply_trainable, trainable_state
from qk_lightning.assembly.weights import Entry, starting_entries
from qk_lightning.config.compose import compose
from qk_lightning.config.errors import ConfigError
from qk_lightning.config.identity import fingerprint
from qk_lightning.config.run_folder import RunFolder

HEAD = {"name": "flux", "num_layers": 1, "num_single_layers": 1, "num_attention_heads": 1}
LORA = OmegaConf.create({"rank": 4, "alpha": 8.0, "targets": []})


def make(family: str, vlm: Path) -> torch.nn.Module:
    node = HEAD if family == "head" else {"name": "qwen2_5_vl", "path": str(vlm)}
    part = build_part(family, OmegaConf.create(node), 0, {"latent_channels": 4})
    part.load_base()
    return part


def run(family: str, part: torch.nn.Module) -> torch.Tensor:
    with seeded(1, "inputs"), torch.no_grad():
        condition, latents = torch.randn(2, 3, 128), torch.randn(2, 4, 2, 2)
        queries, images = torch.randn(2, 2, 32), torch.rand(2, 1, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        if family == "head":
            mask = torch.ones(2, 3, dtype=torch.bool)
            return part(latents, torch.tensor([0.3, 0.7]), condition, mask, None, ())
        return part(part.prepare(["red hair", "a green shirt"], images), queries).kontext


def train_lora(family: str, part: torch.nn.Module, file: Path) -> None:
    """Give a part adapters that do something, and write them as a stage does."""
    trainable = OmegaConf.create({family: {"lora": LORA}})
    apply_trainable({family: part}, trainable, seed=0)
    with torch.no_grad(), seeded(2, "update"):
        for parameter in trainable_state(part).values():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    state = {name: p.detach().float().clone() for name, p in trainable_state(part).items()}
    metadata = {"lora": json.dumps({"rank": 4, "alpha": lora_alpha(LORA)})}
    save_file(state, file, metadata=metadata)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["vlm", "head"])
def test_a_merged_part_computes_what_the_trained_one_did(family, dtype, tmp_path, tiny_vlm, capsys):
    trained, plain = (make(family, tiny_vlm).to(dtype) for _ in range(2))
    train_lora(family, trained, tmp_path / "lora.safetensors")
    before = run(family, plain)
    merge_lora(plain, tmp_path / "lora.safetensors")
    with_adapters, merged = run(family, trained), run(family, plain)
    off = (merged - with_adapters).abs().max() / with_adapters.abs().max()
    moved = (before - with_adapters).abs().max() / with_adapters.abs().max()
    with capsys.disabled():
        print(f"\n{family}, {dtype}: merged and unmerged differ by {off:.1e} of the largest value")
    assert moved > 0.05
    assert off < (1e-6 if dtype == torch.float32 else 0.05)


def test_a_lora_for_another_width_is_refused_before_a_stage_starts(tmp_path, tiny_vlm):
    cfg = OmegaConf.create({"vlm": {"name": "qwen2_5_vl", "path": str(tiny_vlm)}, "seed": 0})
    layer = "model.model.language_model.layers.0.self_attn.q_proj"
    state = {
        f"{layer}.lora_A.default.weight": torch.zeros(2, 64),
        f"{layer}.lora_B.default.weight": torch.zeros(64, 2),
    }
    file = tmp_path / "stage1" / "weights" / "vlm.lora.safetensors"
    file.parent.mkdir(parents=True)
    save_file(state, file, metadata={"lora": '{"rank": 2, "alpha": 2}'})
    name = file.relative_to(tmp_path).as_posix()
    entries = [
        Entry("vlm", "base", str(tiny_vlm), fingerprint(tiny_vlm)),
        Entry("vlm", "merge_lora", name, fingerprint(file)),
    ]
    with pytest.raises(ConfigError) as caught:
        replay(cfg, entries, ["vlm"], tmp_path)
    said = str(caught.value)
    for part in ("vlm", "q_proj", "64", "stage1/weights", "fix: "):
        assert part in said


@pytest.mark.usefixtures("tiny_presets")
@pytest.mark.parametrize(
    ("override", "key", "fix"),
    [
        ("trainable.conector=full", "trainable.conector", "did you mean 'connector'"),
        ("trainable.vlm.lora.targets=[q_proj, typo]", "typo", "'q_proj'"),
        ("trainable.connector={lora: {rank: 2}}", "connector.lora.targets", "none of its own"),
        ("queries={name: random}", "trainable.queries", "trainable.queries=frozen"),
        ("from_parent.hed=load", "from_parent.hed", "did you mean 'head'"),
    ],
)
def test_a_freeze_or_a_load_that_matches_nothing_is_an_error(override, key, fix) -> None:
    preset = "tiny/stage2" if "from_parent" in override else "tiny/stage1"
    with pytest.raises(ConfigError) as caught:
        cfg = compose(preset, [override]).cfg
        families = ("vlm", "queries", "connector")
        sizes = {"num_layers": 1, "input_size": 32, "hidden_size": 32, "output_size": 32}
        parts = {family: build_part(family, cfg[family], 0, sizes) for family in families}
        apply_trainable(parts, cfg.trainable, seed=0)
    assert key in str(caught.value) and fix in str(caught.value)


@pytest.mark.usefixtures("tiny_presets")
def test_a_part_that_the_parent_does_not_have_cannot_be_loaded(root: Path) -> None:
    parent = RunFolder(root / "runs" / "parent-0")
    parent.path.mkdir(parents=True)
    parent.weights_json.write_text('{"format": 1, "entries": []}')
    cfg = compose("tiny/stage2").cfg
    with pytest.raises(ConfigError, match="from_parent.connector.*a parent with a connector"):
        starting_entries(cfg, ["connector"], parent)
