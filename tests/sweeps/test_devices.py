"""GPUs and cores given to runs: each its own, never more than there are. Processes are real."""

from __future__ import annotations

import json
import os

import fake_stages
import pytest
from omegaconf import OmegaConf

from qk_lightning.config.errors import ConfigError
from qk_lightning.sweeps import fork_server, room
from qk_lightning.sweeps.devices import VISIBLE, gpus_of, visible_gpus
from qk_lightning.sweeps.engine import RunOptions
from qk_lightning.sweeps.plan import plan_sweep


@pytest.fixture
def noted(project, monkeypatch):
    """Let runs note what they saw; return what reads it: (run, GPUs, cores) each."""
    monkeypatch.setenv("FAKE_DEVICES", "1")

    def read():
        lines = (project / "runs/devices.txt").read_text().splitlines()
        return [json.loads(line) for line in lines]

    return read


def test_each_run_sees_its_own_gpus(sweep_of, run, noted, monkeypatch):
    monkeypatch.setenv(VISIBLE, "3,GPU-ab,5,7")
    monkeypatch.setenv("FAKE_STAGE", "align *=sleep 1")
    result, printed = run(sweep_of(widths=(1, 4), seeds=(0, 1), gpus=2))
    assert result.exit_status == 0
    assert "pool: local, 2 at a time, 2 of 4 GPUs a run, 1 thread a run" in printed
    seen = {line[1] for line in noted()}
    assert seen == {"3,GPU-ab", "5,7"}
    aligned = [line for line in noted() if line[0].startswith("align")]
    first, second = sorted(aligned, key=lambda line: line[3])[:2]
    assert first[1] != second[1]  # they ran at the same time


def test_slots_follow_the_gpus_and_nobody_gets_what_is_not_there(
    project, sweep_of, run, monkeypatch
):
    monkeypatch.setenv(VISIBLE, "0,1,2")
    plan = plan_sweep(sweep_of(seeds=(0,)))
    assert room.room_of(plan.file, plan.to_start).slots == 3
    assert "3 at a time, 1 of 3 GPUs a run" in plan.describe()
    with pytest.raises(ConfigError, match="at most 3, the GPUs that this machine shows"):
        run(sweep_of(seeds=(0,), gpus=4))
    plan = plan_sweep(sweep_of(seeds=(0,), gpus=0))
    assert room.room_of(plan.file, plan.to_start).slots == 2
    with pytest.raises(ConfigError, match="the cores that this process may use"):
        run(sweep_of(seeds=(0,), cores=len(os.sched_getaffinity(0)) + 1))
    assert fake_stages.calls() == []


def test_each_run_is_bound_to_its_own_cores(project, sweep_of, run, noted, monkeypatch):
    monkeypatch.delenv(VISIBLE, raising=False)
    mine = sorted(os.sched_getaffinity(0))
    result, _ = run(sweep_of(widths=(1, 4), seeds=(0, 1), cores=1))
    assert result.exit_status == 0
    assert {tuple(line[2]) for line in noted()} == {(core,) for core in mine[: len(noted())]}
    assert sorted(os.sched_getaffinity(0)) == mine


def test_a_member_of_several_devices_gets_so_many_gpus():
    def asked(gpus, are_there=True, **trainer):
        return gpus_of(OmegaConf.create({"trainer": trainer}), gpus, are_there)

    assert asked(None, devices=4) == 4
    assert asked(None, False, devices=4) == 0
    assert asked(1, devices=4) == 4
    assert asked(2, devices=1) == 2
    assert asked(0, devices=4) == 0
    assert asked(2, devices=4, accelerator="cpu") == 0


def test_what_is_visible_is_what_cuda_would_see(monkeypatch):
    for given, seen in {"": [], "1,-1,0": ["1"], "2, GPU-x": ["2", "GPU-x"]}.items():
        monkeypatch.setenv(VISIBLE, given)
        assert visible_gpus() == seen


def test_an_executor_that_is_not_installed_is_named(project, sweep_of, run, monkeypatch):
    monkeypatch.setattr(room.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(fork_server, "start", lambda *_: pytest.fail("a process was started"))
    for name in ("ray", "submitit"):
        with pytest.raises(ConfigError, match=rf"fix: pip install {name}"):
            run(sweep_of(seeds=(0,)), options=RunOptions(executor={"name": name}))
