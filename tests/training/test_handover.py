"""What a stage starts from: nothing is dropped, mixed up or kept from an earlier try."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch

from qk_lightning.assembly.weights import starting_entries
from qk_lightning.config.chain import plan_chain
from qk_lightning.config.errors import ConfigError
from qk_lightning.config.run_folder import RunFolder
from qk_lightning.sweeps.preflight import check
from qk_lightning.sweeps.stage import run_stage
from qk_lightning.systems.query_kontext import QueryKontext
from qk_lightning.training.ema import EMACallback

pytestmark = pytest.mark.usefixtures("tiny_presets")


def train(preset: str, *overrides: str) -> RunFolder:
    """Train the first stage of a chain."""
    folder = plan_chain(preset, overrides)[0].write()
    run_stage(folder.path)
    return folder


def test_a_part_that_the_parent_trained_is_taken_over_without_being_named(
    tiny_presets: Path,
) -> None:
    text = (tiny_presets / "stage2.yaml").read_text().replace(", autoencoder: load", "")
    (tiny_presets / "stage2.yaml").write_text(text)
    parent = train("tiny/stage1", "trainable.autoencoder=full", "max_steps=2")
    cfg = plan_chain("tiny/stage2", ["stage1.trainable.autoencoder=full", "stage1.max_steps=2"])[
        1
    ].cfg
    entries = starting_entries(cfg, QueryKontext.families, parent)
    (codec,) = [entry for entry in entries if entry.part == "autoencoder"]
    assert codec.action == "load"
    assert codec.file.startswith(parent.name)


def test_weights_under_another_path_are_refused_where_the_parents_are_wanted(
    tiny_vlm: Path, root: Path
) -> None:
    other = root / "other"
    shutil.copytree(tiny_vlm, other)
    file = other / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x07")
    train("tiny/stage1")
    child = plan_chain("tiny/stage2", [f"stage2.vlm.path={other}"])[-1].write()
    with pytest.raises(ConfigError, match="the parent began with"):
        run_stage(child.path)


@pytest.mark.slow
def test_a_parent_elsewhere_is_found(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = train("tiny/stage1", "max_steps=1")
    elsewhere = root / "elsewhere"
    elsewhere.mkdir()
    shutil.move(str(parent.path), elsewhere)
    moved = elsewhere / parent.name
    child = train("tiny/stage2", f"parent={moved}", "max_steps=1")
    files = [entry["file"] for entry in json.loads(child.weights_json.read_text())["entries"]]
    assert str(moved / "weights" / "vlm.lora.safetensors") in files


def test_a_truncated_base_is_named(tiny_vlm: Path, root: Path) -> None:
    broken = root / "broken"
    shutil.copytree(tiny_vlm, broken)
    file = broken / "model.safetensors"
    file.write_bytes(file.read_bytes()[:2000])
    run = plan_chain("tiny/stage1", [f"vlm.path={broken}"])[0].write()
    with pytest.raises(ConfigError, match="weights that fit this vlm"):
        run_stage(run.path)


def test_what_is_no_part_of_the_identity_may_change_between_tries() -> None:
    first = plan_chain("tiny/stage1")[0].write()
    second = plan_chain("tiny/stage1", ["trainer.micro_batch_size=1"])[0].write()
    assert first.path == second.path
    assert second.config.trainer.micro_batch_size == 1


def test_handed_over_parts_of_other_sizes_are_found_before_training() -> None:
    with pytest.raises(
        ConfigError, match="write `stage2.connector.name=enc_proj`, or `stage2.from"
    ):
        check(plan_chain("tiny/stage2", ["stage1.connector=enc_proj"]))


def test_a_picture_size_that_the_codec_cannot_cut_is_found_before_training() -> None:
    with pytest.raises(ConfigError, match="a multiple of 8"):
        check(plan_chain("tiny/stage1", ["data.world.size=36"]))
    with pytest.raises(ConfigError, match="a multiple of 16: 8 pixels a latent cell"):
        check(plan_chain("tiny/stage1", ["data.world.size=40", "head.patch=2"]))


def test_more_steps_than_the_objective_has_are_found_before_training() -> None:
    steps = "stage1.sampling.num_inference_steps=2000"
    with pytest.raises(ConfigError, match="1000 or less with objective=ddpm"):
        check(plan_chain("tiny/stage1", ["objective=ddpm", steps]))


def test_nothing_measured_is_a_choice() -> None:
    run = train("tiny/stage1", "validation.num_samples=0", "validation.num_images=0", "max_steps=1")
    assert run.is_done
    assert all(name.startswith(("train/", "perf/")) for name in run.last_metrics())


def test_metrics_stand_at_the_number_of_steps_done() -> None:
    run = train("tiny/stage1", "max_steps=3", "validation.every=2")
    steps = [row["step"] for row in run.metrics() if row["metric"] == "train/loss"]
    assert steps == [1, 2, 3]
    assert [row["step"] for row in run.metrics() if row["metric"] == "val/loss"] == [2, 3]


def test_ctrl_c_stops_resumably(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qk_lightning.training.callbacks.REPORT_SECONDS", 0.0)

    def interrupt(values: dict[str, int]) -> None:
        if values["step"] == 3:
            os.kill(os.getpid(), signal.SIGINT)

    run = plan_chain("tiny/stage1", ["max_steps=6"])[0].write()
    with pytest.raises(KeyboardInterrupt):
        run_stage(run.path, interrupt)
    assert run.status["state"] == "stopped"
    assert run.last_checkpoint_step == 3  # the step that it came in
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    run_stage(run.path)
    assert run.is_done


def test_the_average_is_a_lerp_and_leaves_the_weights_as_they_were() -> None:
    module = torch.nn.Linear(2, 1)
    trainer = type("T", (), {"global_step": 0, "is_global_zero": True})()
    ema = EMACallback(0.9)
    ema.on_train_start(trainer, module)
    start = {name: p.detach().clone() for name, p in module.named_parameters()}
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1.0)
    trainer.global_step = 100
    ema.on_train_batch_end(trainer, module, None, None, 0)
    ema.on_train_batch_end(trainer, module, None, None, 1)  # a second micro-batch of the step
    ema.on_validation_start(trainer, module)
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(parameter, start[name] + 0.1)
    ema.on_validation_end(trainer, module)
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(parameter, start[name] + 1.0)
