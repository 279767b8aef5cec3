"""The VLM part as a checkpoint: built without weights, loaded, written, and loaded again."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from qk_lightning.parts.base import load_weights
from qk_lightning.parts.vlms.qwen2_5_vl import Qwen25VL
from qk_lightning.parts.vlms.small import make_small_vlm

torch.set_num_threads(1)  # many small operations: threads only get in each other's way
PROMPTS = ["a red hat", "", "two people"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_small_vlm(
        tmp_path_factory.mktemp("vlm"), PROMPTS, hidden_size=64, num_layers=2, vision_hidden=32
    )


@pytest.fixture
def vlm(folder):
    vlm = Qwen25VL(path=str(folder))
    assert vlm.load_base()
    return vlm


def kontext(vlm):
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(3, 1, 3, 32, 32, generator=generator) * 2 - 1
    queries = torch.randn(3, 4, 64, generator=generator)
    return vlm(vlm.prepare(PROMPTS, images), queries).kontext


def test_sizes_come_before_weights(folder):
    with torch.device("meta"):
        vlm = Qwen25VL(path=str(folder))
    assert vlm.hidden_size == 64
    assert all(p.is_meta for p in vlm.parameters())
    assert len(vlm.shard_units()) == 4


@pytest.mark.parametrize("start", ["meta", "to_empty"])
@pytest.mark.parametrize("source", ["path", "own state"])
def test_meta_built_equals_eager_built(vlm, folder, start, source):
    with torch.device("meta"):
        other = Qwen25VL(path=str(folder))
    if start == "to_empty":
        other.to_empty(device="cpu")
    if source == "path":
        other.load_base()
    else:
        load_weights(other, vlm.state_dict())
    assert other.model.lm_head.weight is other.model.get_input_embeddings().weight
    expected = dict(vlm.named_buffers())
    assert expected
    for name, buffer in other.named_buffers():
        assert torch.equal(buffer, expected[name]), name
    assert torch.equal(kontext(other), kontext(vlm))


def test_casting_leaves_the_positions_exact(vlm):
    tables = {name: buffer.clone() for name, buffer in vlm.named_buffers()}
    nn.ModuleList([vlm]).to(torch.bfloat16)
    assert {p.dtype for p in vlm.parameters()} == {torch.bfloat16}
    for name, buffer in vlm.named_buffers():
        assert torch.equal(buffer, tables[name]), name
    assert torch.isfinite(kontext(vlm)).all()


def test_loading_keeps_what_is_frozen(folder):
    vlm = Qwen25VL(path=str(folder)).requires_grad_(False)
    vlm.load_base()
    assert not any(p.requires_grad for p in vlm.parameters())
    assert vlm.training  # transformers' from_pretrained would have said eval


def test_export_is_a_folder_for_path(vlm, tmp_path):
    with torch.no_grad():
        vlm.model.lm_head.weight.mul_(2)
    vlm.export(tmp_path)
    again = Qwen25VL(path=str(tmp_path))
    assert again.load_base()
    assert torch.equal(kontext(again), kontext(vlm))
    assert again.patch_settings == vlm.patch_settings


def test_shards_and_half_precision_files_load(vlm, tmp_path):
    vlm.export(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    vlm.half().model.save_pretrained(tmp_path, max_shard_size="60KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    again = Qwen25VL(path=str(tmp_path))
    assert again.load_base()
    assert {p.dtype for p in again.parameters()} == {torch.float32}
    assert torch.equal(kontext(again), kontext(vlm.float()))


def test_missing_weights_are_an_error(vlm, tmp_path):
    vlm.export(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    state.pop(next(name for name in state if "down_proj" in name))
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="down_proj"):
        Qwen25VL(path=str(tmp_path)).load_base()


def test_a_folder_without_weights_starts_at_random(vlm, tmp_path):
    vlm.export(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    starts = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        fresh = Qwen25VL(path=str(tmp_path))
        assert not fresh.load_base()
        starts.append(kontext(fresh))
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])


def test_wrong_paths_are_named(tmp_path):
    with pytest.raises(ValueError, match="nowhere"):
        Qwen25VL(path="./nowhere")
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    with pytest.raises(ValueError, match="expected a 'qwen2_5_vl'"):
        Qwen25VL(path=str(tmp_path))


def test_half_precision_hands_on_the_queries_dtype(folder):
    vlm = Qwen25VL(path=str(folder), dtype="bfloat16")
    vlm.load_base()
    for trains in (True, False):
        vlm.requires_grad_(trains)
        output = vlm(vlm.prepare(PROMPTS), torch.randn(3, 2, 64))
        assert output.kontext.dtype == output.text_states.dtype == torch.float32
    assert vlm(vlm.prepare(PROMPTS)).text_states.dtype == torch.bfloat16


def test_a_hub_id_goes_through_the_hub(vlm, folder, tmp_path, monkeypatch):
    import huggingface_hub.constants

    snapshot = tmp_path / "models--lab--tiny" / "snapshots" / ("0" * 40)
    shutil.copytree(folder, snapshot)
    (tmp_path / "models--lab--tiny" / "refs").mkdir()
    (tmp_path / "models--lab--tiny" / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    cached = Qwen25VL(path="lab/tiny")
    assert cached.load_base()
    assert torch.equal(kontext(cached), kontext(vlm))
