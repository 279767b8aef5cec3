"""A step that is not finite never reaches the weights; spikes and idle parameters are told."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.plugins import MixedPrecision
from test_run_stage import results_of, train, weights_of

from qk_lightning.cli.main import main
from qk_lightning.config.chain import plan_chain
from qk_lightning.config.find_runs import list_runs
from qk_lightning.config.run_folder import RunFolder
from qk_lightning.sweeps.stage import run_stage
from qk_lightning.systems.query_kontext import QueryKontext
from qk_lightning.training.guard import StepGuard, describe_step
from qk_lightning.training.idle import grouped
from qk_lightning.training.ranks import Ranks
from qk_lightning.training.spikes import Samples, SpikeLog

pytestmark = pytest.mark.usefixtures("tiny_presets")

QUICK = ["validation.num_samples=0", "validation.num_images=0"]
Loss = Callable[[QueryKontext, torch.Tensor], torch.Tensor]


def bend_loss(patch: pytest.MonkeyPatch, step: int, bend: Loss) -> None:
    """Change the loss of one optimiser step's micro-batches, counted from 1."""
    right = QueryKontext.training_step

    def bent(self: QueryKontext, *arguments: Any) -> torch.Tensor:
        loss = right(self, *arguments)
        return bend(self, loss) if self.global_step == step - 1 else loss

    patch.setattr(QueryKontext, "training_step", bent)


def poisoned_gradient(system: QueryKontext, loss: torch.Tensor) -> torch.Tensor:
    """Return the loss itself, with a gradient of nan for the connector: 0 * sqrt(0)'s."""
    weight = next(system.connector.parameters())
    return loss + (weight - weight.detach()).abs().sqrt().sum() * 0


@pytest.mark.parametrize(
    ("bend", "said"),
    [
        pytest.param(
            lambda _, loss: loss * float("nan"),
            "the loss of step 4 is nan",
            id="loss",
            marks=pytest.mark.slow,
        ),
        pytest.param(poisoned_gradient, "the gradient of step 4 is not finite", id="gradient"),
    ],
)
def test_a_step_that_is_not_finite_stops_the_run_before_it(
    bend: Loss, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["fit", "tiny/stage1", "max_steps=6", "checkpoint_every=1", *QUICK]
    with monkeypatch.context() as patch:
        bend_loss(patch, 4, bend)
        assert main(words) == 1
    message = capsys.readouterr().err
    (run,) = list_runs()
    assert said in message
    assert "gradients not finite in " in message
    assert "samples 12 to 15" in message  # the fourth step of four samples
    assert "the weights are still those of step 3" in message
    assert f"resume={run.checkpoints / 'step=3.ckpt'}" in message
    assert run.status["state"] == "failed"
    assert said in run.status["error"]
    assert [file.name for file in run.checkpoint_files()] == ["step=3.ckpt", "step=2.ckpt"]
    kept = torch.load(run.checkpoint_files()[0], weights_only=True)
    shadow = kept["callbacks"]["EMACallback"]["shadow"]
    assert all(torch.isfinite(t).all() for t in (*kept["state_dict"].values(), *shadow.values()))
    assert max(row["step"] for row in run.metrics()) == 3
    # The same command goes on, and ends as if the step had never failed.
    assert main(words) == 0
    resumed, metrics = weights_of(run), results_of(run)
    run.remove()
    straight = train(plan_chain("tiny/stage1", words[2:]))[0]
    assert results_of(straight) == metrics
    assert all(torch.equal(t, resumed[name]) for name, t in weights_of(straight).items())


def test_what_it_says_to_do_works(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["fit", "tiny/stage1", "max_steps=4", *QUICK]
    with monkeypatch.context() as patch:
        bend_loss(patch, 4, poisoned_gradient)
        assert main(words) == 1
    (failed,) = list_runs()
    resume = f"resume={failed.checkpoints / 'step=2.ckpt'}"
    message = capsys.readouterr().err
    assert resume in message
    assert "gradients not finite in connector." in message
    rates = []
    right = QueryKontext.training_step

    def watched(self: QueryKontext, *arguments: Any) -> torch.Tensor:
        rates.append((self.global_step, self.optimizers().param_groups[0]["lr"]))
        return right(self, *arguments)

    monkeypatch.setattr(QueryKontext, "training_step", watched)
    assert main([*words, "optimizer.lr=1e-4", "optimizer.warmup_steps=0", resume]) == 0
    (run,) = (run for run in list_runs() if run.name != failed.name)
    assert [row["step"] for row in run.metrics() if row["metric"] == "train/loss"] == [3, 4]
    assert min(step for step, _ in rates) == 2
    assert max(rate for _, rate in rates) < 1e-4  # its own, and half way down the cosine


def test_weights_that_are_not_finite_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    right = torch.optim.AdamW.step

    def broken(self: torch.optim.AdamW, closure: Any = None) -> Any:
        result = right(self, closure)
        with torch.no_grad():
            self.param_groups[-1]["params"][0].fill_(float("inf"))
        return result

    run = plan_chain("tiny/stage1", [*QUICK, "checkpoint_every=1"])[0].write()
    monkeypatch.setattr(torch.optim.AdamW, "step", broken)
    with pytest.raises(FloatingPointError, match="weights are not finite after step 1"):
        run_stage(run.path)
    assert not list(run.checkpoints.glob("*"))


@pytest.mark.slow
def test_the_norm_is_logged_before_clipping_and_clipping_is_torchs() -> None:
    clip = "optimizer.gradient_clip=1e-3"
    run = train(plan_chain("tiny/stage1", [clip, "max_steps=2", *QUICK]))[0]
    norms = [row["value"] for row in run.metrics() if row["metric"] == "train/grad_norm"]
    assert len(norms) == 2
    assert min(norms) > 1e-3
    state = torch.load(run.checkpoints / "step=2.ckpt", weights_only=True)["optimizer_states"][0]
    # Adam's first moment after one step is (1 - beta1) times the clipped gradient.
    first = torch.stack([one["exp_avg"].norm() for one in state["state"].values()]).norm()
    assert 0 < first < 2e-3


class Halves(LightningModule):
    """One weight, whose gradient overflows half precision under the scaler's first factors."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(4, 4))
        self.factor = factor
        self.done = 0

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        """Return a loss of about one, times a factor."""
        return (batch @ self.weight).float().mean() * self.factor

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Count the steps that the scaler lets through."""
        optimizer = torch.optim.SGD(self.parameters(), lr=1e-3)
        optimizer.register_step_post_hook(lambda *_: setattr(self, "done", self.done + 1))
        return optimizer


def halve(system: Halves, folder: Path) -> list[float]:
    """Train it with a scaler, on the CPU, and return the norms that were logged."""
    spikes = SpikeLog(RunFolder(folder), Ranks(), 6.0, 16)
    guard = StepGuard(RunFolder(folder), Ranks(), 1.0, spikes)
    trainer = Trainer(
        plugins=[MixedPrecision("16-mixed", "cpu")], callbacks=[guard, spikes], max_steps=8,
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(system, torch.utils.data.DataLoader(torch.ones(8, 4), batch_size=1))
    return list(spikes._seen.get("loss", []))


@pytest.mark.filterwarnings("ignore")
def test_a_scaler_leaves_out_steps_that_overflow_and_only_the_loss_stops(tmp_path: Path) -> None:
    system = Halves(8.0)
    losses = halve(system, tmp_path)
    assert 0 < system.done < 8  # the first ones overflowed
    assert len(losses) == system.done
    assert losses[0] == pytest.approx(32.0, rel=0.01)  # as it was before scaling
    with pytest.raises(FloatingPointError, match="the loss of step 1 is nan"):
        halve(Halves(float("nan")), tmp_path)


def rows_of(run: RunFolder) -> list[dict[str, str]]:
    """Read spikes.csv."""
    with (run.path / "spikes.csv").open(newline="") as handle:
        return list(csv.DictReader(handle))


def test_a_spike_is_kept_with_its_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qk_lightning.training.spikes.LEAST", 4)
    bend_loss(monkeypatch, 6, lambda _, loss: loss * 50)
    words = ["trainer.log_every=4", "max_steps=7", "trainer.spike_threshold=12"]
    run = train(plan_chain("tiny/stage1", [*words, *QUICK]))[0]
    rows = rows_of(run)
    assert {(row["step"], row["what"]) for row in rows} == {("6", "loss"), ("6", "grad_norm")}
    assert rows[0]["indices"] == "20 21 22 23"
    assert len(rows[0]["ids"].split()) == 4
    assert float(rows[0]["value"]) > 12 * float(rows[0]["median"])
    (spike,) = (row for row in run.metrics() if row["metric"] == "train/spike")
    assert spike["step"] == 6
    assert spike["value"] > 12


def test_a_spike_is_measured_in_deviations(tmp_path: Path) -> None:
    log = SpikeLog(RunFolder(tmp_path), Ranks(), 6.0, 11)
    values = [10.0, 11.0, 9.0, 10.5, 9.5, 10.0, 11.0, 9.0, 10.5, 9.5]  # median 10, MAD 0.5
    for step, value in enumerate([*values, 12.9, 13.2], 1):
        log.look(step, {"loss": value}, [Samples("t", (step,), ("a b",))])
    (row,) = rows_of(log.run)
    assert (row["step"], row["what"], row["median"]) == ("12", "loss", "10.0")
    assert row["deviations"] == "6.4"
    log.look(13, {"loss": 0.0}, [])  # a fall is none
    assert len(rows_of(log.run)) == 1
    quiet = SpikeLog(RunFolder(tmp_path / "off"), Ranks(), None, 11)
    quiet.look(1, {"loss": 1e9}, [])
    assert not quiet.run.path.exists()


def test_what_never_learns_is_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = train(plan_chain("tiny/stage1", QUICK))[0]
    assert "no gradient" not in caplog.text  # the head's pooled text is zero, and it says so
    counts = json.loads((run.path / "parameters.json").read_text())
    assert counts["head"]["without_gradient"] == [
        "head.model.time_text_embed.text_embedder.linear_1.weight"
    ]
    assert "without_gradient" not in counts["connector"]
    run.remove()
    blind = ["data.tasks={text_to_image: 1, reconstruction: 0}", "system.context=text"]
    with caplog.at_level(logging.WARNING):
        run = train(plan_chain("tiny/stage1", [*blind, "trainable.autoencoder=full", *QUICK]))[0]
    assert "parameters got no gradient in the first 4 steps: " in caplog.text
    assert "autoencoder: " in caplog.text
    assert "no micro-batch had a picture to read" in caplog.text
    counts = json.loads((run.path / "parameters.json").read_text())
    assert len(counts["autoencoder"]["without_gradient"]) > 10


def test_names_are_grouped_by_part_and_module() -> None:
    names = [f"vlm.model.visual.blocks.{n}.attn.qkv.lora_A.default.weight" for n in range(3)]
    assert grouped([*names, "head.final.bias"]) == [
        "vlm: 3 of model.visual.blocks",
        "head: 1 of final",
    ]


def test_the_arithmetic_of_a_step_is_told() -> None:
    said = describe_step({"global_batch_size": 64}, 2, 4)
    assert said == "64 samples a step = 2 ranks x 4 micro-batches x 8"
    assert describe_step({"global_batch_size": 3}, 1, 1).endswith("= 1 rank x 1 micro-batch x 3")
