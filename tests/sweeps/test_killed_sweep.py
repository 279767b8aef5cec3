"""Real sweeps that are killed, shared by two processes, or widened: nothing is trained twice."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qk_lightning.config.run_folder import RunFolder

REPOSITORY = Path(__file__).parents[2]
SWEEP = """
preset: tiny/stage3
overrides: [all.trainer.max_steps=6, all.trainer.checkpoint_every=1]
axes: {optimizer.lr: RATES}
seeds: [0]
baseline: {optimizer.lr: 0.001}
slots: 2
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture
def start(tmp_path, tiny_presets):
    """Start `qk sweep` in a root of its own; return its process, and the root's runs."""
    begun = []

    def call(name, rates="[0.001, 0.002]"):
        root = tmp_path / name
        if not root.exists():
            shutil.copytree(tiny_presets, root / "experiments" / "tiny")
        (root / "rates.yaml").write_text(SWEEP.replace("RATES", rates))
        variables = {"QK_ROOT": str(root), "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
        words = [sys.executable, "-m", "qk_lightning", "sweep", str(root / "rates.yaml")]
        log = (root / "said.txt").open("a")
        process = subprocess.Popen(words, env={**os.environ, **variables}, stdout=log, stderr=log)
        begun.append(process)
        return process, root

    yield call
    for process in begun:
        if process.poll() is None:
            process.kill()
        process.wait()


def test_a_sweep_that_is_killed_three_times_ends_like_an_undisturbed_one(start):
    quiet, straight = start("straight")
    assert quiet.wait() == 0, (straight / "said.txt").read_text()
    chance, starts = random.Random(7), {}
    for stage in ("stage1", "stage2", "stage3"):
        process, root = start("killed")
        starts |= {run.name: _starts(run) for run in _runs(root) if run.is_done}
        _wait_until_it_trains(process, root, stage)
        time.sleep(chance.uniform(0.0, 2.0))
        process.send_signal(signal.SIGKILL)
        process.wait()
        _wait_until_all_members_ended(root)
    starts |= {run.name: _starts(run) for run in _runs(root) if run.is_done}
    process, root = start("killed")
    assert process.wait() == 0, (root / "said.txt").read_text()

    assert _table(root) == _table(straight)
    ours, theirs = ({run.name: run for run in _runs(folder)} for folder in (root, straight))
    assert ours.keys() == theirs.keys() and len(ours) == 4
    assert {name: _losses(run) for name, run in ours.items()} == {
        name: _losses(run) for name, run in theirs.items()
    }
    assert {name: _starts(ours[name]) for name in starts} == starts  # done, so never begun again
    again = sum(_starts(run) for run in ours.values()) - len(ours)
    resumed = [_steps_gone_on_from(run) for run in ours.values()]
    print(f"{again} times a run was begun again; steps gone on from, by run: {resumed}")
    assert 1 <= again <= 2 * 3  # what a kill met, two at a time
    assert any(resumed)


def test_a_value_more_trains_its_own_last_stage_alone(start):
    process, root = start("wider")
    assert process.wait() == 0, (root / "said.txt").read_text()
    before = {run.name: (_starts(run), run.status["finished"]) for run in _runs(root)}
    steps = _steps(root)
    process, root = start("wider", rates="[0.001, 0.002, 0.004]")
    assert process.wait() == 0
    after = {run.name: (_starts(run), run.status["finished"]) for run in _runs(root)}
    assert {name: after[name] for name in before} == before
    new = [run for run in _runs(root) if run.name not in before]
    assert [run.config.name for run in new] == ["stage3"]
    assert _steps(root) - steps == 6  # training steps, and no more


def test_two_processes_on_one_sweep_share_its_runs(start):
    first, root = start("both")
    second, _ = start("both")
    assert (first.wait(), second.wait()) == (0, 0), (root / "said.txt").read_text()
    assert {run.name: _starts(run, trained=True) for run in _runs(root)} == {
        run.name: 1 for run in _runs(root)
    }
    assert _steps(root) == 4 * 6


def _runs(root):
    return [RunFolder(file.parent) for file in sorted(root.glob("runs/*/config.yaml"))]


def _starts(run, trained=False):
    """Count the processes that worked on a run; a process begins its log with a line."""
    parts = _log(run).split("--- ")[1:]
    return sum(len(part.splitlines()) > 1 for part in parts) if trained else len(parts)


def _log(run):
    log = run.path / "log.txt"
    return log.read_text() if log.is_file() else ""


def _steps(root):
    """Count the training steps that were measured, each run's by itself."""
    return sum(row["metric"] == "train/loss" for run in _runs(root) for row in run.metrics())


def _table(root):
    result = json.loads(next(root.glob("runs/sweeps/*/result.json")).read_text())
    return [line for line in result["summary"].splitlines() if "second" not in line]


def _losses(run):
    """What depends on the seed and the data alone: no speeds."""
    return [row for row in run.metrics() if row["metric"].startswith(("train/", "val/", "eval/"))]


def _steps_gone_on_from(run):
    """The steps of the checkpoints that later processes of a run began at."""
    return [int(step) for step in re.findall(r"queries .*its checkpoint, step (\d+)", _log(run))]


def _wait_until_it_trains(process, root, stage):
    """Wait until a run of a stage has kept a step."""
    deadline = time.monotonic() + 600
    while not any(run.checkpoint_files() for run in _runs(root) if run.name.startswith(stage)):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)


def _wait_until_all_members_ended(root):
    deadline = time.monotonic() + 60
    while any(run.lock().is_held for run in _runs(root)):
        assert time.monotonic() < deadline, "a member outlived its sweep"
        time.sleep(0.1)
