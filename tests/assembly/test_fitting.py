"""A head that does not fit the data or the system is refused before anything trains."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from qk_lightning.assembly.build import build_part, open_world
from qk_lightning.assembly.fitting import head_problems
from qk_lightning.assembly.readable import damaged_bases
from qk_lightning.config.chain import plan_chain
from qk_lightning.config.compose import compose
from qk_lightning.config.errors import ConfigError
from qk_lightning.config.layers import load_layers
from qk_lightning.parts.base import Part
from qk_lightning.parts.heads.base import DiffusionHead
from qk_lightning.sweeps.preflight import check
from qk_lightning.systems.query_kontext import VLM_ALONE

pytestmark = pytest.mark.usefixtures("tiny_presets")
SANA = "head={name: sana, num_layers: 1, num_attention_heads: 2, condition_size: 32}"
SD3 = "head={name: sd3, num_layers: 1, num_attention_heads: 2, condition_size: 32}"
QWEN = "head={name: qwen_image, num_layers: 1, num_attention_heads: 2, condition_size: 32}"


def problems(*overrides: str) -> str:
    """Return what is said of the last stage of the tiny chain, whose pictures are 4 x 4 cells."""
    cfg = compose("tiny/stage3", list(overrides)).cfg
    parts: dict[str, Part] = {}
    with torch.device("meta"):
        for family in ("autoencoder", "head"):
            parts[family] = build_part(family, cfg[family], 0, {"latent_channels": 4})
    found = head_problems(parts, cfg, open_world(cfg.data.world), unseen=VLM_ALONE)
    return "\n".join(map(str, found))


@pytest.mark.parametrize("override", [SANA, SD3])
def test_channels_without_a_slot_are_refused_where_pictures_come(override: str) -> None:
    said = problems(override)
    assert said.startswith("system.low_level = True: expected false")
    assert "fix: set head.num_image_slots=3 for these tasks" in said
    assert problems(override, "system.low_level=false") == ""


def test_every_task_needs_its_slots() -> None:
    assert problems(SANA, "head.num_image_slots=3") == ""
    said = problems(SANA, "head.num_image_slots=1")
    assert "room for the pictures of customised" in said and "need 2 slots" in said
    assert "room for the pictures of multi_subject" in said and "need 3 slots" in said
    assert "of editing" not in said
    # One fix mends both, and never less than the most that a task needs.
    assert said.count("fix: set head.num_image_slots=3, or data.tasks.") == 2
    only = "data.tasks={text_to_image: 1, editing: 1, customised: 0, multi_subject: 0}"
    assert problems(SANA, "head.num_image_slots=1", only) == ""
    # The VLM alone sees the pictures of these.
    alone = "data.tasks={reconstruction: 1, editing: 0, customised: 0, multi_subject: 0}"
    assert problems(SANA, "head.num_image_slots=1", alone) == ""


def test_tokens_take_all_pictures() -> None:
    assert problems() == problems(QWEN) == ""


@pytest.mark.parametrize("override", [SANA, SD3, QWEN, "head.num_layers=1"])
def test_the_worlds_size_is_held_against_the_patch(override: str) -> None:
    said = problems(override, "head.patch=3", "system.low_level=false")
    assert "data.world.size = 32: expected a multiple of 24: 8 pixels a latent cell, 3" in said
    assert "set data.world.size=24" in said
    assert problems(override, "head.patch=2", "system.low_level=false") == ""


def test_the_worlds_size_is_held_against_the_table_of_positions() -> None:
    said = problems(SD3, "head.pos_embed_max_size=2", "system.low_level=false")
    assert "data.world.size = 32: expected 16 or less: SD3 has positions for 2 cells" in said


def test_a_head_that_masks_no_padding_never_sees_any(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DiffusionHead, "masks_padding", False)
    for context in ("text", "both"):
        said = problems(f"system.context={context}")
        assert f"system.context = '{context}': expected queries: Flux masks no padding" in said
    assert problems("system.context=queries") == ""
    assert problems("trainer.micro_batch_size=1", "validation.batch_size=1") == ""


@pytest.mark.parametrize("name", ["sana", "sd3", "sd15"])
def test_the_heads_that_take_channels_have_room_for_all_tasks(name: str) -> None:
    slots = load_layers(f"head/{name}")[0].values["head"]["num_image_slots"]
    assert problems(SANA, f"head.num_image_slots={slots}") == ""


def test_a_later_stage_may_widen_the_head_that_it_takes_over() -> None:
    narrow = SANA.replace("head=", "stage2.head=")
    wide = narrow.replace("stage2", "stage3").replace("}", ", num_image_slots: SLOTS}")
    check(plan_chain("tiny/stage3", [narrow, wide.replace("SLOTS", "3")]))
    wider = narrow.replace("}", ", num_image_slots: 4}")
    with pytest.raises(ConfigError, match="'num_image_slots': 4. as in stage2"):
        check(plan_chain("tiny/stage3", [wider, wide.replace("SLOTS", "3")]))


def test_nothing_is_drawn_for_the_check(root: Path) -> None:
    check(plan_chain("tiny/stage3"))
    assert not (root / "runs").exists()


def test_a_damaged_file_in_a_pipelines_folder_is_found(root: Path) -> None:
    (root / "pipe" / "transformer").mkdir(parents=True)
    (root / "pipe" / "transformer" / "diffusion_pytorch_model.safetensors").write_bytes(b"cut")
    cfg = OmegaConf.create({"head": {"path": str(root / "pipe"), "subfolder": "transformer"}})
    (problem,) = damaged_bases(cfg, ["head"])
    assert "diffusion_pytorch_model.safetensors" in str(problem)


@pytest.mark.slow
def test_a_chain_widens_its_head_trains_it_by_lora_and_can_be_loaded() -> None:
    from qk_lightning.assembly.replay import replay
    from qk_lightning.assembly.weights import read_entries
    from qk_lightning.sweeps.stage import run_stage

    narrow = SANA.replace("head=", "stage2.head=")
    wide = narrow.replace("stage2", "stage3").replace("}", ", num_image_slots: 3}")
    plans = plan_chain("tiny/stage3", [narrow, wide, "all.max_steps=2"])
    for plan in plans:
        run_stage(plan.write().path)
    run = plans[-1].folder
    parts = replay(plans[-1].cfg, read_entries(run), ("autoencoder", "head"), run.path.parent)
    weight = parts["head"].model.patch_embed.proj.weight  # type: ignore[union-attr, operator]
    assert weight.shape[1] == 16 and weight[:, 4:].any()  # LoRA moved what began at zero
