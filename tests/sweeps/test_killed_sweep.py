"""Real sweeps that are killed, shared by two processes, or widened: nothing is trained twice."""

from __future__ import annotations

import json
import os
import random
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
seeds: [0, 1]
baseline: {optimizer.lr: 0.001}
slots: 2
"""
KILLS = 3

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
    for _ in range(KILLS):
        process, root = start("killed")
        done = {run.name: _starts(run) for run in _runs(root) if run.is_done}
        _wait_until_it_trains(process, root)
        time.sleep(chance.uniform(0.2, 4.0))
        process.send_signal(signal.SIGKILL)
        process.wait()
        _wait_until_all_members_ended(root)
        starts |= done
    process, root = start("killed")
    assert process.wait() == 0, (root / "said.txt").read_text()

    assert _table(root) == _table(straight)
    ours, theirs = ({run.name: run for run in _runs(folder)} for folder in (root, straight))
    assert ours.keys() == theirs.keys() and len(ours) == 8
    assert [run.metrics() for run in ours.values()] == [theirs[name].metrics() for name in ours]
    assert {name: _starts(ours[name]) for name in starts} == starts  # done, so never begun again
    again = sum(_starts(run) for run in ours.values()) - len(ours)
    print(f"{again} of {len(ours)} runs were begun again after {KILLS} kills")
    assert again <= 2 * KILLS  # those that a kill met, two at a time
    for run in ours.values():
        _check_that_it_went_on(run)


def _check_that_it_went_on(run):
    """Each later process of a run begins at a checkpoint, at most one step of each is lost."""
    parts = (run.path / "log.txt").read_text().split("--- ")[1:]
    reached = [int(part.split("goes on from step ")[1].split()[0])
               for part in parts if "goes on from step " in part]  # fmt: skip
    assert reached == sorted(reached)


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
    assert [run.config.stage for run in new] == ["stage3", "stage3"]
    assert {run.config.seed for run in new} == {0, 1}
    assert _steps(root) - steps == 2 * 6  # training steps, and no more


def test_two_processes_on_one_sweep_share_its_runs(start):
    first, root = start("both")
    second, _ = start("both")
    assert (first.wait(), second.wait()) == (0, 0), (root / "said.txt").read_text()
    assert {run.name: _starts(run, trained=True) for run in _runs(root)} == {
        run.name: 1 for run in _runs(root)
    }
    assert _steps(root) == 8 * 6


def _runs(root):
    return [RunFolder(file.parent) for file in sorted(root.glob("runs/*/config.yaml"))]


def _starts(run, trained=False):
    """Count the processes that worked on a run; a process begins its log with a line."""
    log = run.path / "log.txt"
    text = log.read_text() if log.is_file() else ""
    parts = text.split("--- ")[1:]
    return sum(len(part.splitlines()) > 1 for part in parts) if trained else len(parts)


def _steps(root):
    """Count the training steps that were measured, each run's by itself."""
    return sum(row["metric"] == "train/loss" for run in _runs(root) for row in run.metrics())


def _table(root):
    result = json.loads(next(root.glob("runs/sweeps/*/result.json")).read_text())
    return [line for line in result["summary"].splitlines() if "second" not in line]


def _wait_until_it_trains(process, root):
    deadline = time.monotonic() + 300
    while not any(run.status.get("state") == "running" and run.lock().is_held
                  for run in _runs(root)):  # fmt: skip
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)


def _wait_until_all_members_ended(root):
    deadline = time.monotonic() + 60
    while any(run.lock().is_held for run in _runs(root)):
        assert time.monotonic() < deadline, "a member outlived its sweep"
        time.sleep(0.1)
