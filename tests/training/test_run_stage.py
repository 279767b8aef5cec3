"""One run from its folder: hand-over between stages, kill and resume, damaged files."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from qk_lightning.config.chain import StagePlan, plan_chain
from qk_lightning.config.errors import ConfigError
from qk_lightning.config.run_folder import RunFolder
from qk_lightning.sweeps.stage import run_stage
from qk_lightning.systems.query_kontext import QueryKontext
from qk_lightning.training.callbacks import ProgressCallback

pytestmark = pytest.mark.usefixtures("tiny_presets")


def train(plans: list[StagePlan]) -> list[RunFolder]:
    """Train a chain in this process."""
    folders = []
    for plan in plans:
        folder = plan.write()
        run_stage(folder.path)
        folders.append(folder)
    return folders


def entries(run: RunFolder) -> list[tuple[str, str, str]]:
    """Return (part, action, run that the file belongs to) of weights.json."""
    listed = json.loads(run.weights_json.read_text())["entries"]
    return [(e["part"], e["action"], e["file"].split("-")[0]) for e in listed]


def test_three_stages_hand_over_and_the_last_one_draws() -> None:
    from qk_lightning.pipeline import QueryKontextPipeline

    stage1, stage2, stage3 = train(plan_chain("tiny/stage3"))
    assert ("vlm", "merge_lora", "stage1") in entries(stage1)
    assert ("vlm", "merge_lora", "stage1") in entries(stage2)  # merged, then frozen
    assert ("head", "load", "stage2") in entries(stage2)
    assert ("head", "load", "stage2") in entries(stage3)
    assert ("head", "merge_lora", "stage3") in entries(stage3)
    assert ("queries", "load", "stage3") in entries(stage3)
    assert ("queries", "load", "stage2") not in entries(stage3)
    metrics = stage3.last_metrics()
    assert {"val/loss", "eval/avatars/attributes", "eval/reconstruction/psnr"} <= set(metrics)
    items = json.loads((stage3.samples / "final" / "prompts.json").read_text())
    for item in items:
        assert (stage3.samples / "final" / f"{item['id']}.png").is_file()
    pipeline = QueryKontextPipeline.from_run(stage3)
    target = stage3.samples / "final" / "target_text_to_image_0.png"
    same = [pipeline("a person", references=[target], seed=3)[0].tobytes() for _ in range(2)]
    assert same[0] == same[1]
    assert pipeline("", sources=[target])[0].size == (32, 32)


@pytest.mark.slow
def test_a_lora_that_would_be_dropped_is_an_error() -> None:
    plans = plan_chain("tiny/stage2", ["from_parent.vlm=load"])
    train(plans[:1])
    with pytest.raises(ConfigError, match=r"merge"):
        run_stage(plans[1].write().path)


@pytest.mark.slow
def test_a_missing_ancestor_is_named(root: Path) -> None:
    plans = plan_chain("tiny/stage2")
    stage1, _ = train(plans)
    (stage1.weights / "vlm.lora.safetensors").unlink()
    from qk_lightning.pipeline import QueryKontextPipeline

    with pytest.raises(ConfigError, match=stage1.name):
        QueryKontextPipeline.from_run(plans[1].folder)


def test_weights_that_changed_are_refused() -> None:
    plans = plan_chain("tiny/stage2")
    stage1, _ = train(plans)
    file = stage1.weights / "vlm.lora.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x07")
    from qk_lightning.pipeline import QueryKontextPipeline

    with pytest.raises(ConfigError, match="unchanged"):
        QueryKontextPipeline.from_run(plans[1].folder)


def kill_at(step: int, folder: str) -> None:
    """Train a folder in this (forked) process and die without a word after a step."""
    torch.set_num_threads(1)

    def report(values: dict[str, int]) -> None:
        if values["step"] >= step:
            os.kill(os.getpid(), signal.SIGKILL)

    run_stage(folder, report)


def weights_of(run: RunFolder) -> dict[str, torch.Tensor]:
    """Return everything that a run trained."""
    found = {}
    for file in sorted(run.weights.rglob("*.safetensors")):
        for name, tensor in load_file(file).items():
            found[f"{file.relative_to(run.weights)}:{name}"] = tensor
    return found


def training_state(run: RunFolder) -> dict[str, Any]:
    """Return what a run's checkpoints hold but for the paths and clocks in them."""
    states = {}
    for file in sorted(run.checkpoints.glob("*.ckpt")):
        content = torch.load(file, weights_only=True)
        own = ("SpikeLog", "IdleParameters", "EMACallback")
        callbacks = {name: content["callbacks"][name] for name in own}
        names = ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "qk_lightning")
        states[file.name] = {"callbacks": callbacks, **{name: content[name] for name in names}}
        states[file.name]["best"] = content.get("best", {})
    return states


def alike(first: Any, second: Any) -> bool:
    """Tell whether two nested states are equal to the bit."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(alike(first[k], second[k]) for k in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(alike, first, second))
    return bool(first == second)


def results_of(run: RunFolder) -> list[dict[str, object]]:
    """Return the metrics that do not tell of the machine."""
    return [row for row in run.metrics() if not row["metric"].startswith("perf/")]


@pytest.mark.distributed
def test_a_killed_run_goes_on_and_ends_bit_for_bit_the_same(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qk_lightning.training.callbacks.REPORT_SECONDS", 0.0)
    monkeypatch.setattr("qk_lightning.training.spikes.LEAST", 3)
    right = QueryKontext.velocity_loss

    def drawing(self: QueryKontext, *arguments: Any) -> torch.Tensor:  # as dropout would
        losses = right(self, *arguments)
        return losses * (1 + 0.1 * torch.rand(1)) if self.training else losses

    monkeypatch.setattr(QueryKontext, "velocity_loss", drawing)
    words = ["max_steps=7", "validation.every=3", "trainer.keep_best=val/loss"]
    words += ["trainer.spike_threshold=0.1", "trainer.spike_window=4"]  # nearly every step is one
    straight = train(plan_chain("tiny/stage1", words))[0]
    expected, metrics = weights_of(straight), results_of(straight)
    spikes, kept = (straight.path / "spikes.csv").read_text(), training_state(straight)
    straight.remove()
    run = plan_chain("tiny/stage1", words)[0].write()
    child = multiprocessing.get_context("fork").Process(target=kill_at, args=(5, str(run.path)))
    child.start()
    child.join(120)
    assert child.exitcode == -signal.SIGKILL
    names = sorted(file.name for file in run.checkpoints.iterdir())
    assert names == ["best-step=3.ckpt", "step=2.ckpt", "step=4.ckpt"]
    assert not run.weights.exists()
    run_stage(run.path)
    resumed = weights_of(run)
    assert resumed.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensor, resumed[name]), name
    assert results_of(run) == metrics
    assert (run.path / "spikes.csv").read_text() == spikes
    resumed_state = training_state(run)
    assert resumed_state.keys() == kept.keys()
    for file, state in kept.items():  # optimiser, schedule, average, windows: the last and the best
        assert alike(resumed_state[file], state), file


def test_a_damaged_checkpoint_is_passed_over(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qk_lightning.training.checkpoints import latest_checkpoint

    monkeypatch.setattr("qk_lightning.sweeps.stage.keep_newest", lambda *_: None)
    run = train(plan_chain("tiny/stage1"))[0]
    newest = run.checkpoints / "step=4.ckpt"
    newest.write_bytes(newest.read_bytes()[:1000])
    found = latest_checkpoint(run)
    assert found is not None
    assert found.name == "step=2.ckpt"
    assert "cannot be read" in caplog.text


def test_a_micro_batch_changes_nothing() -> None:
    trained = []
    for size in (2, 1):
        words = [f"trainer.micro_batch_size={size}", "trainer.log_every=1"]
        run = train(plan_chain("tiny/stage1", words))[0]
        losses = [row["value"] for row in run.metrics() if row["metric"] == "train/loss"]
        trained.append((run.identity, weights_of(run), losses))
        run.remove()
    (identity, whole, losses), (same, cut, losses_of_cut) = trained
    assert identity == same
    assert losses == pytest.approx(losses_of_cut, abs=1e-5)
    assert len(losses) == 4
    for name, tensor in whole.items():
        torch.testing.assert_close(tensor, cut[name], rtol=1e-3, atol=1e-5)


def test_a_failure_is_kept_in_the_status(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(ProgressCallback, "on_train_batch_end", broken)
    run = plan_chain("tiny/stage1")[0].write()
    with pytest.raises(RuntimeError):
        run_stage(run.path)
    assert run.status["state"] == "failed"
    assert "out of luck" in run.status["error"]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.tasks={text_to_image: 0, editing: 0, customised: 0, multi_subject: 0}", "above 0"),
        ("data.tasks={fly: 1}", "fly"),
        ("trainer.micro_batch_size=3", "a divisor of 2"),
        ("head.axes_dims_rope=[1, 2, 3]", "axes_dims_rope"),
        ("trainable.head.lora.targets=[nothing]", "trainable.head.lora.targets"),
    ],
)
def test_a_mistake_in_the_last_stage_is_found_before_the_first_one_trains(
    override: str, said: str
) -> None:
    from qk_lightning.sweeps.preflight import check

    with pytest.raises(ConfigError) as caught:
        check(plan_chain("tiny/stage3", [override]))
    assert said in str(caught.value)


def test_what_is_right_passes_the_check() -> None:
    from qk_lightning.sweeps.preflight import check

    check(plan_chain("tiny/stage3"))
