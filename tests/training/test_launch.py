"""Runs that start their own ranks, from the command line and on a GPU."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest
import torch
from test_run_stage import train, weights_of
from two_ranks import copy_as, losses

from qk_lightning.cli.main import main
from qk_lightning.config.chain import plan_chain
from qk_lightning.config.errors import ConfigError
from qk_lightning.config.rank_variables import rank_variables, started_rank
from qk_lightning.config.run_folder import RunFolder
from qk_lightning.sweeps.execute import run_chain
from qk_lightning.sweeps.launch import follow, train_on_ranks
from qk_lightning.training.ranks import join

pytestmark = pytest.mark.usefixtures("tiny_presets")
QUICK = ["max_steps=4", "validation.num_images=0"]


def test_who_started_this_process(monkeypatch):
    assert started_rank(2) is None
    for name, value in {"SLURM_NTASKS": "4", "SLURM_NNODES": "2", "SLURM_PROCID": "3"}.items():
        monkeypatch.setenv(name, value)
    assert started_rank(2) is None  # an allocation, and no step of it
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    assert started_rank(2) == 3
    assert started_rank(4) is None  # other tasks than ranks
    for name, value in rank_variables(1, 2, 1).items():
        monkeypatch.setenv(name, value)
    assert started_rank(1) == 1


def test_processes_that_the_configuration_does_not_know(monkeypatch):
    plans = plan_chain("tiny/stage1", ["trainer.devices=3"])
    for name, value in rank_variables(0, 2, 1).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=r"trainer\.devices = 3(.|\n)*set trainer\.devices=2"):
        join(plans[0].cfg.trainer)
    with pytest.raises(ConfigError, match="use `qk fit` under torchrun"):
        run_chain(plans, in_process=False)
    assert follow([]) == 0


@pytest.mark.slow
@pytest.mark.distributed
def test_fit_starts_its_ranks(monkeypatch):
    overrides = [*QUICK, "trainer.devices=2", "trainer.strategy=fsdp"]
    assert main(["fit", "tiny/stage1", *overrides]) == 0
    run = plan_chain("tiny/stage1", overrides)[0].folder
    assert run.is_done and len(losses(run)) == 4
    trained, seen = weights_of(run), losses(run)
    run.remove()
    alone = train(plan_chain("tiny/stage1", QUICK))[0]
    assert alone.path == run.path  # the number of ranks is no part of what a run is
    assert seen == pytest.approx(losses(alone), abs=1e-5)
    assert trained.keys() == weights_of(alone).keys()


@pytest.mark.slow
@pytest.mark.distributed
def test_a_rank_that_is_killed_takes_the_run_down():
    plan = plan_chain("tiny/stage1", ["max_steps=5000", "trainer.devices=2"])[0]
    run, died = plan.write(), []

    def kill_one() -> None:
        while not losses(run):
            time.sleep(0.2)
        (pid,) = [p for p in ranks_of(run) if p != os.getpid()][-1:]
        died.append(time.monotonic())
        os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    with pytest.raises(RuntimeError, match="ended by SIGKILL"):
        train_on_ranks(run, plan.cfg, None, 0.0)
    assert time.monotonic() - died[0] < 60


def ranks_of(run: RunFolder) -> list[int]:
    """Return the process ids that the ranks' logs name, in the order of ranks."""
    logs = sorted((run.path / "ranks").glob("*/log.txt"))
    return [int(log.read_text().split("process ")[1].split()[0]) for log in logs]


@pytest.mark.gpu
@pytest.mark.distributed
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_trains_sharded_as_the_cpu_does():
    alone = train(plan_chain("tiny/stage1", QUICK))[0]
    run = copy_as(alone, "fsdp", 1, accelerator="gpu")
    train_on_ranks(run, run.config, None, 0.0)
    assert losses(run) == pytest.approx(losses(alone), rel=1e-3)
