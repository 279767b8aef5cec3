"""LoRA merges, what counts as trained, the dry run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file

from qk_lightning.assembly.build import build_part, seeded
from qk_lightning.assembly.dry_run import dry_run
from qk_lightning.assembly.lora import lora_alpha, merge_lora
from qk_lightning.assembly.trainable import apply_trainable, trainable_state
from qk_lightning.config.compose import compose
from qk_lightning.config.errors import ConfigError

HEAD = {"name": "flux", "num_layers": 1, "num_single_layers": 1, "num_attention_heads": 1}


def make_head() -> torch.nn.Module:
    return build_part("head", OmegaConf.create(HEAD), 0, {"latent_channels": 4})


def run_head(head: torch.nn.Module) -> torch.Tensor:
    with seeded(1, "inputs"):
        latents, condition = torch.randn(2, 4, 2, 2), torch.randn(2, 3, 128)
    mask = torch.ones(2, 3, dtype=torch.bool)
    return head(latents, torch.tensor([0.3, 0.7]), condition, mask, None, ())


def test_a_merged_lora_equals_the_unmerged_model(tmp_path: Path) -> None:
    head = make_head()
    trainable = OmegaConf.create({"head": {"lora": {"rank": 4, "alpha": 8.0, "targets": []}}})
    apply_trainable({"head": head}, trainable, seed=0)
    with torch.no_grad(), seeded(2, "update"):
        for parameter in trainable_state(head).values():
            parameter.copy_(torch.randn_like(parameter) * 0.1)
    state = {name: p.detach().clone() for name, p in trainable_state(head).items()}
    alpha = lora_alpha(trainable.head.lora)
    metadata = {"lora": json.dumps({"rank": 4, "alpha": alpha})}
    save_file(state, tmp_path / "lora.safetensors", metadata=metadata)
    plain = make_head()
    before = run_head(plain)
    assert merge_lora(plain, tmp_path / "lora.safetensors") == len(state) // 2
    merged = run_head(plain)
    torch.testing.assert_close(merged, run_head(head), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(before, merged)


def test_a_lora_for_another_width_or_layer_is_refused(tmp_path: Path) -> None:
    layer = "model.transformer_blocks.0.attn.to_q"
    for name, width in ((layer, 7), ("model.nowhere.to_q", 32)):
        state = {
            f"{name}.lora_A.default.weight": torch.zeros(2, width),
            f"{name}.lora_B.default.weight": torch.zeros(32, 2),
        }
        save_file(state, tmp_path / "x.safetensors", metadata={"lora": '{"rank": 2, "alpha": 2}'})
        with pytest.raises(ValueError, match="LoRA"):
            merge_lora(make_head(), tmp_path / "x.safetensors")


def test_lora_targets_that_no_layer_has_are_an_error_with_the_layers() -> None:
    trainable = OmegaConf.create(
        {"head": {"lora": {"rank": 4, "alpha": None, "targets": ["to_z"]}}}
    )
    with pytest.raises(ConfigError, match="to_q"):
        apply_trainable({"head": make_head()}, trainable, seed=0)


@pytest.mark.usefixtures("tiny_presets")
def test_a_dry_run_counts_without_memory() -> None:
    result = dry_run(compose("tiny/stage1").cfg)
    assert result.parameters["autoencoder"]["trainable"] == 0
    assert 0 < result.parameters["vlm"]["trainable"] < result.parameters["vlm"]["total"]
    assert result.parameters["queries"] == {"total": 64, "trainable": 64}
    learns = sum(counts["trainable"] for counts in result.parameters.values())
    assert 8 * learns < result.memory["optimizer"] < 8.1 * learns  # and a counter a tensor
    assert "global batch 4 = 2 groups of 2" in result.describe()
