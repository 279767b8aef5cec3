"""An exported folder: the same pictures, a card, a LoRA kept or merged, a parent of a stage."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import qk_lightning as qk
from qk_lightning.assembly.weights import starting_entries
from qk_lightning.cli.main import main
from qk_lightning.config.chain import plan_chain
from qk_lightning.config.errors import ConfigError
from qk_lightning.config.exported_folder import ExportedFolder
from qk_lightning.config.run_folder import RunFolder
from qk_lightning.pipeline import QueryKontextPipeline

RED = Image.new("RGB", (32, 32), "red")
CALL = {"prompt": "a person", "images": [("reference", RED)], "output_type": "latent"}


@pytest.fixture(scope="module")
def merged(stage3: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of stage 3. Copy; never write."""
    return qk.export(stage3, tmp_path_factory.mktemp("merged") / "mine")


@pytest.fixture(scope="module")
def kept(stage3: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with its LoRA apart. Copy; never write."""
    return qk.export(stage3, tmp_path_factory.mktemp("kept") / "mine", lora="keep")


@pytest.fixture(scope="module")
def drawn(stage3: RunFolder) -> torch.Tensor:
    """What the run itself draws."""
    return QueryKontextPipeline.from_run(stage3)(**CALL)


def test_a_reload_draws_the_same_to_the_bit_and_needs_no_run(
    merged: Path, drawn: torch.Tensor, stage3: RunFolder, tmp_path: Path, monkeypatch
) -> None:
    moved = tmp_path / "under another name"
    shutil.copytree(merged, moved)
    monkeypatch.setattr(RunFolder, "weights_json", "nobody asks for it")
    pipeline = QueryKontextPipeline.from_pretrained(moved)
    assert torch.equal(pipeline(**CALL), drawn)
    again = pipeline.save_pretrained(tmp_path / "again")
    assert ExportedFolder(again).identity == ExportedFolder(merged).identity
    assert ExportedFolder(again).chain == ExportedFolder(merged).chain
    assert torch.equal(QueryKontextPipeline.from_pretrained(again)(**CALL), drawn)
    assert all(file.stat().st_mode & 0o044 == 0o044 for file in again.rglob("*.*"))


def test_half_is_half_the_size_and_nearly_the_same(
    merged: Path, drawn: torch.Tensor, tmp_path: Path
) -> None:
    pipeline = QueryKontextPipeline.from_pretrained(merged)
    half = pipeline.save_pretrained(tmp_path / "half", half=True)
    head = "head/diffusion_pytorch_model.safetensors"
    assert (half / head).stat().st_size < 0.6 * (merged / head).stat().st_size
    found = QueryKontextPipeline.from_pretrained(half)(**CALL)
    torch.testing.assert_close(found, drawn, rtol=0, atol=3e-2)
    assert ExportedFolder(half).identity != ExportedFolder(merged).identity


def test_the_card_says_what_the_run_knows(merged: Path, kept: Path, stage3: RunFolder) -> None:
    text = (merged / "README.md").read_text()
    chain = [item["stage"] for item in ExportedFolder(merged).chain]
    assert chain == ["stage1", "stage2", "stage3"]
    for words in (
        f"# {stage3.name}",
        f"identity `{stage3.identity}`",
        "data fingerprint: avatars-",
        "1. `stage1-",
        "(samples.png)",
        "| head | `flux` |",
        "LoRA, rank 2",
        "### final/avatars",
        "95 % bootstrap intervals",
        "val/loss",
        "CC BY 4.0",
        "LoRA merged",
        "from_pretrained",
    ):
        assert words in text, words
    with Image.open(merged / "samples.png") as grid:
        assert grid.size[0] > 96
    assert "apart in `head_lora/`" in (kept / "README.md").read_text()
    assert (merged / "run.yaml").read_text() == (stage3.path / "config.yaml").read_text()


def test_a_lora_that_is_kept_is_pefts_and_adds_up_to_the_merged_weights(
    merged: Path, kept: Path, drawn: torch.Tensor, stage3: RunFolder, tmp_path: Path
) -> None:
    from diffusers import FluxTransformer2DModel
    from peft import PeftModel

    found = QueryKontextPipeline.from_pretrained(kept)(**CALL)
    torch.testing.assert_close(found, drawn, rtol=0, atol=1e-6)
    whole = load_file(merged / "head/diffusion_pytorch_model.safetensors")
    base = load_file(kept / "head/diffusion_pytorch_model.safetensors")
    assert any(not torch.equal(base[name], whole[name]) for name in whole)  # it learned something
    model = FluxTransformer2DModel.from_pretrained(kept / "head")
    adapted = PeftModel.from_pretrained(model, kept / "head_lora").merge_and_unload()
    for name, tensor in adapted.state_dict().items():
        torch.testing.assert_close(tensor, whole[name], rtol=0, atol=1e-6)
    again = QueryKontextPipeline.from_run(stage3).save_pretrained(tmp_path / "again", lora="keep")
    assert ExportedFolder(again).identity == ExportedFolder(kept).identity


def test_a_lora_for_another_width_is_named(kept: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(kept, tmp_path / "mine")
    file = folder / "head_lora" / "adapter_model.safetensors"
    state = load_file(file)
    name = next(name for name in state if "lora_A" in name)
    state[name] = torch.zeros(state[name].shape[0], 2 * state[name].shape[1])
    save_file(state, file)
    with pytest.raises(ConfigError) as caught:
        QueryKontextPipeline.from_pretrained(folder)
    layer = name.removeprefix("base_model.model.").split(".lora_A")[0]
    for words in (f"the LoRA of model.{layer} is for a weight of", "of this width", "head_lora"):
        assert words in str(caught.value)
    config = folder / "head_lora" / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "use_dora": True}))
    with pytest.raises(ConfigError, match="more than a plain LoRA"):
        QueryKontextPipeline.from_pretrained(folder)


def test_what_there_is_no_lora_of_cannot_be_kept(stage2: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the run itself trained no LoRA"):
        qk.export(stage2, tmp_path / "mine", lora="keep")
    assert not (tmp_path / "mine").exists()
    with pytest.raises(ConfigError, match="merge | keep"):
        qk.export(stage2, tmp_path / "mine", lora="drop")


@pytest.mark.usefixtures("tiny_presets")
def test_a_stage_continues_from_an_exported_folder(
    stage2: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = qk.export(stage2, tmp_path / "parent")
    words = ["tiny/stage3", f"parent={folder}", "max_steps=1"]
    words += ["validation.num_samples=0", "validation.num_images=0"]
    (plan,) = plan_chain(words[0], words[1:])
    moved = shutil.copytree(folder, tmp_path / "moved")
    (same,) = plan_chain(words[0], [f"parent={moved}", *words[2:]])
    assert same.identity == plan.identity  # what it holds counts, not where it lies
    identity = ExportedFolder(folder).identity
    assert main(["fit", *words]) == 0
    said = capsys.readouterr().out
    assert f"{folder} (weights {identity}, exported from {stage2.name})" in said
    run = plan.folder
    entries = json.loads(run.weights_json.read_text())["entries"]
    assert {"part": "vlm", "action": "load", "file": str(folder / "vlm")}.items() <= next(
        entry for entry in entries if entry["part"] == "vlm"
    ).items()
    queries = load_file(folder / "queries" / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in queries.items()}, folder / "queries" / "x")
    (folder / "queries" / "x").replace(folder / "queries" / "model.safetensors")
    (other,) = plan_chain(words[0], words[1:])
    assert other.identity != plan.identity
    # The queries were its own, the rest is unchanged.
    assert main(["generate", run.name, "--prompt", "", "--output", str(tmp_path / "out")]) == 0
    child = qk.export(run, tmp_path / "child")
    assert [item["stage"] for item in ExportedFolder(child).chain] == ["stage1", "stage2", "stage3"]


@pytest.mark.usefixtures("tiny_presets")
def test_a_parent_that_changed_after_the_plan_is_refused(stage2: RunFolder, tmp_path: Path) -> None:
    from qk_lightning.sweeps.stage import run_stage

    folder = qk.export(stage2, tmp_path / "parent")
    run = plan_chain("tiny/stage3", [f"parent={folder}", "max_steps=1"])[0].write()
    file = folder / "connector" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x07")
    with pytest.raises(ConfigError, match="that the run was planned with"):
        run_stage(run.path)


@pytest.mark.usefixtures("tiny_presets")
def test_a_kept_lora_is_handed_over_by_merge_alone(kept: Path) -> None:
    (plan,) = plan_chain("tiny/stage3", [f"parent={kept}"])
    families = ExportedFolder(kept).parts
    with pytest.raises(ConfigError, match="merge"):
        starting_entries(plan.cfg, families, plan.parent_folder)
    (plan,) = plan_chain("tiny/stage3", [f"parent={kept}", "from_parent.head=merge"])
    entries = starting_entries(plan.cfg, families, plan.parent_folder)
    assert [e.action for e in entries if e.part == "head"] == ["load", "merge_lora"]


@pytest.mark.slow
def test_an_exported_folder_draws_and_is_scored_on_the_command_line(
    merged: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(merged, root / "mine")
    assert main(["generate", str(folder), "--prompt", "a", "--output", str(root / "out")]) == 0
    assert len(list((root / "out").glob("mine_*.png"))) == 1
    assert main(["evaluate", str(folder), "avatars", "--limit", "1"]) == 0
    assert (folder / "evaluations/avatars_limit1/summary.json").is_file()
    assert qk.load_run(str(folder)).pipeline().run.path == folder
    assert main(["export", str(folder), str(root / "again")]) == 2
    assert "not an exported folder" in capsys.readouterr().err


def index(folder: Path, **changes: object) -> None:
    """Change the folder's index."""
    file = folder / "model_index.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


BROKEN = {
    "there is no such folder": lambda folder: shutil.rmtree(folder),
    "it has no model_index.json": lambda folder: (folder / "model_index.json").unlink(),
    "names a FluxPipeline": lambda folder: index(folder, _class_name="FluxPipeline"),
    "update qk_lightning": lambda folder: index(folder, format=99),
    "is damaged": lambda folder: index(folder, parts={"vlm": 3}),
    "is damaged:": lambda folder: (folder / "model_index.json").write_text("{"),
    "the folder of its head": lambda folder: shutil.rmtree(folder / "head"),
    "weights that fit this queries": lambda folder: (folder / "queries/model.safetensors").unlink(),
    "run.yaml": lambda folder: (folder / "run.yaml").write_text("a: ["),
}


@pytest.mark.parametrize("says", BROKEN)
def test_a_folder_that_is_no_export_is_named(merged: Path, tmp_path: Path, says: str) -> None:
    folder = shutil.copytree(merged, tmp_path / "mine")
    BROKEN[says](folder)
    with pytest.raises(ConfigError) as caught:
        QueryKontextPipeline.from_pretrained(folder)
    assert says in str(caught.value) and "fix: " in str(caught.value)


def test_a_runs_folder_is_for_from_run(stage3: RunFolder) -> None:
    with pytest.raises(ConfigError, match="for from_run"):
        QueryKontextPipeline.from_pretrained(stage3.path)


@pytest.mark.usefixtures("tiny_presets")
def test_a_parent_that_is_some_folder_is_named(root: Path) -> None:
    (root / "some").mkdir()
    with pytest.raises(ConfigError, match=r"neither config.yaml nor model_index.json"):
        plan_chain("tiny/stage3", [f"parent={root / 'some'}"])


def test_nothing_of_somebodys_is_written_over(
    merged: Path, stage3: RunFolder, tmp_path: Path
) -> None:
    folder = shutil.copytree(merged, tmp_path / "mine")
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for target, force, says in (
        (folder, False, "--force"),
        (tmp_path / "theirs", True, "new or empty"),
        (tmp_path / "file", True, "is a file"),
        (tmp_path, True, "new or empty"),
    ):
        with pytest.raises(ConfigError, match=says):
            qk.export(stage3, target, force=force)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"also holds notes\.txt"):
        qk.export(stage3, folder, force=True)
    (folder / "notes.txt").unlink()
    (folder / "README.md").write_text("old")
    assert qk.export(stage3, folder, force=True) == folder
    assert "old" not in (folder / "README.md").read_text()
