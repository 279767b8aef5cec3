"""Two ranks stop at the same step, whichever of them saw it; they log one norm and one spike."""

from __future__ import annotations

import csv
import json
import os
from typing import Any

import pytest
import torch
from test_guard import bend_loss
from test_run_stage import train
from two_ranks import copy_as, on_ranks, train_on

from qk_lightning.config.chain import plan_chain
from qk_lightning.config.run_folder import RunFolder
from qk_lightning.sweeps.launch import train_rank
from qk_lightning.systems.query_kontext import QueryKontext

pytestmark = [
    pytest.mark.slow,
    pytest.mark.shared_root,
    pytest.mark.distributed,
    pytest.mark.filterwarnings("ignore"),
]
WORDS = [
    "max_steps=6",
    "checkpoint_every=1",
    "validation.every=2",
    "validation.num_images=0",
    "trainer.keep_best=val/loss",
    "trainer.spike_threshold=12",
]


@pytest.fixture(scope="module")
def alone(shared_presets: Any) -> RunFolder:
    """The run in one process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("qk_lightning.training.spikes.LEAST", 3)
        bend_loss(patch, 5, lambda _, loss: loss * 50)
        return train(plan_chain("tiny/stage1", WORDS))[0]


def of(run: RunFolder, metric: str) -> list[float]:
    """Return a metric's values in order."""
    return [row["value"] for row in run.metrics() if row["metric"] == metric]


def poisoned(folder: str, how: str) -> str:
    """Train as one rank; the second one meets what is not finite in the fourth step."""
    rank, right = int(os.environ["RANK"]), QueryKontext.training_step

    def bent(self: QueryKontext, *arguments: Any) -> torch.Tensor:
        loss = right(self, *arguments)
        if rank == 0 or self.global_step != 3:
            return loss
        return loss + (float("nan") if how == "loss" else 0.0 * (loss - loss.detach()).sqrt())

    QueryKontext.training_step = bent  # type: ignore[method-assign]
    try:
        train_rank(folder, {"RANK": str(rank)}, 0.0)
    except FloatingPointError as error:
        return str(error)
    return "it went on"


@pytest.mark.parametrize("how", ["loss", "gradient"])
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_all_ranks_stop_before_the_step_that_one_of_them_saw(
    alone: RunFolder, strategy: str, how: str
) -> None:
    run = copy_as(alone, strategy, 2)
    said = on_ranks(poisoned, str(run.path), how)
    assert said[0] == said[1]
    what = "the loss of step 4 is nan" if how == "loss" else "the gradient of step 4 is not finite"
    assert said[0].startswith(what)
    assert "samples 12 to 15" in said[0]  # of both ranks
    assert [file.name for file in run.checkpoint_files()] == ["step=3.ckpt", "step=2.ckpt"]
    assert max(row["step"] for row in run.metrics()) == 3


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_ranks_log_the_norm_the_spikes_and_the_best_of_one_process(
    alone: RunFolder, strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qk_lightning.training.spikes.LEAST", 3)
    bend_loss(monkeypatch, 5, lambda _, loss: loss * 50)
    run = copy_as(alone, strategy, 2)
    train_on(run)
    ours, expected = of(run, "train/grad_norm"), of(alone, "train/grad_norm")
    assert len(expected) == 6
    worst = max(abs(a - b) for a, b in zip(ours, expected, strict=True))
    print(f"{strategy}: norms differ by {worst:.1e}")
    assert ours == pytest.approx(expected, rel=1e-5)
    tables = []
    for one in (run, alone):
        with (one.path / "spikes.csv").open(newline="") as handle:
            rows = list(csv.DictReader(handle))
        assert rows
        tables.append([(r["step"], r["what"], r["task"], r["indices"], r["ids"]) for r in rows])
    assert tables[0] == tables[1]
    best = [sorted(f.name for f in one.checkpoints.glob("best*")) for one in (run, alone)]
    assert best[0] == best[1]
    idle = [json.loads((one.path / "parameters.json").read_text()) for one in (run, alone)]
    assert idle[0] == idle[1]
