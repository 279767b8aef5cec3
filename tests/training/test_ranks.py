"""One process, two ranks with the whole model (ddp), two with shards (fsdp): the same training."""

from __future__ import annotations

import time

import pytest
import torch
from test_run_stage import train, weights_of
from two_ranks import copy_as, losses, train_on

from qk_lightning.config.chain import plan_chain

pytestmark = [pytest.mark.distributed, pytest.mark.filterwarnings("ignore")]
STEPS = 20
QUICK = [
    f"all.max_steps={STEPS}",
    "all.trainer.checkpoint_every=10",
    "all.validation.num_images=0",
    "all.validation.num_samples=2",
    "all.validation.suites=[]",
]


@pytest.fixture
def chain(tiny_presets):
    """Three stages trained by one process: LoRA in the VLM, a frozen VLM, all tasks."""
    return train(plan_chain("tiny/stage3", QUICK))


def test_ranks_train_as_one_process_does(chain, monkeypatch):
    monkeypatch.setattr("qk_lightning.assembly.shard.REPLICATED", 0)  # the frozen VLM too
    for alone in chain:
        expected = losses(alone)
        assert len(expected) == STEPS
        for strategy in ("ddp", "fsdp"):
            run = copy_as(alone, strategy, 2)
            began = time.perf_counter()
            train_on(run)
            worst = max(abs(a - b) for a, b in zip(losses(run), expected, strict=True))
            print(f"{alone.name} {strategy}: {worst:.1e} {time.perf_counter() - began:.1f} s")
            assert worst < 1e-5, (run.name, losses(run), expected)
            assert run.last_metrics()["val/loss"] == pytest.approx(
                alone.last_metrics()["val/loss"], abs=1e-5
            )
            for name, tensor in weights_of(alone).items():
                torch.testing.assert_close(weights_of(run)[name], tensor, rtol=1e-3, atol=1e-4)
