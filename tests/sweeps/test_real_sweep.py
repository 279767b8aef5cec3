"""A sweep of real runs through member processes: one is killed, and none is trained twice."""

from __future__ import annotations

import os
import signal

import pytest

from qk_lightning.config.find_runs import list_runs
from qk_lightning.config.run_folder import RunFolder
from qk_lightning.sweeps.engine import RunOptions
from qk_lightning.sweeps.pool import Pool
from qk_lightning.sweeps.run import run_sweep

SWEEP = """
preset: tiny/stage2
overrides: [all.trainer.max_steps=1]
axes: {optimizer.lr: [0.001, 0.002]}
seeds: [0]
baseline: {optimizer.lr: 0.001}
slots: 2
"""


@pytest.fixture
def sweep(tiny_presets, root):
    """Two members that share their first stage."""
    (root / "rates.yaml").write_text(SWEEP)
    return root / "rates.yaml"


@pytest.fixture
def kill_one(monkeypatch, root):
    """Kill the first second-stage run once it trains; its folder's name ends up in the list."""
    killed: list[str] = []
    events = Pool.events

    def watched(self, timeout=1.0):
        for key in self.running:
            for file in [] if killed else root.glob(f"runs/stage2-{key}/status.json"):
                if RunFolder(file.parent).status["state"] == "running":
                    os.kill(self.pid(key), signal.SIGKILL)
                    killed.append(file.parent.name)
        yield from events(self, 0.02)

    monkeypatch.setattr(Pool, "events", watched)
    return killed


def starts(folder: RunFolder) -> int:
    """Count the processes that worked on a run: each begins its log with a line."""
    lines = (folder.path / "log.txt").read_text().splitlines()
    return sum(line.startswith("--- ") for line in lines)


@pytest.mark.slow
def test_a_sweep_goes_on_after_a_member_was_killed(sweep, kill_one):
    said: list[str] = []
    first = run_sweep(sweep, plain=True, write=said.append)
    assert first.exit_status == 1
    assert "its process was ended by SIGKILL" in "\n".join(said)
    (killed,) = kill_one
    runs = {run.name: run for run in list_runs()}
    assert {name for name, run in runs.items() if not run.is_done} == {killed}
    assert len(runs) == 3
    before = {name: run.status["started"] for name, run in runs.items() if name != killed}

    second = run_sweep(sweep, plain=True, write=said.append, options=RunOptions(retry=True))
    assert second.exit_status == 0
    assert second.outcome.trained == [runs[killed].identity]
    assert len(list_runs()) == 3
    assert before == {name: runs[name].status["started"] for name in before}
    assert {name: starts(run) for name, run in runs.items()} == {
        name: 1 + (name == killed) for name in runs
    }
    assert "lr=0.002" in second.report.read_text()
    assert (second.report.parent / "plot.png").is_file()
