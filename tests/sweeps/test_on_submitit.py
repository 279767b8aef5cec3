"""Sweeps through submitit's local executor, which runs jobs as SLURM would (extra `submitit`)."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import fake_stages
import pytest

from qk_lightning.config.errors import ConfigError
from qk_lightning.sweeps.engine import RunOptions
from qk_lightning.sweeps.room import executor_of

pytest.importorskip("submitit")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
HERE = Path(__file__).parent
LOCAL = RunOptions(executor={"name": "submitit", "cluster": "local", "timeout_min": 10})


@pytest.fixture(autouse=True)
def importable(monkeypatch, project):
    """Let jobs import the fake stages."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), str(HERE.parents[1])]))


def test_jobs_train_fail_and_lose_their_workers(project, sweep_of, run, monkeypatch):
    monkeypatch.setenv("QK_FAKE_STAGE", "align 4 0=raise;align 1 0=sleep 4")
    killed = threading.Event()

    def kill() -> None:
        while "align 1 0" not in fake_stages.calls():
            time.sleep(0.05)
        (job,) = _keepers_of(project, "align 1 0")
        os.kill(job, signal.SIGKILL)
        killed.set()

    threading.Thread(target=kill, daemon=True).start()
    result, printed = run(sweep_of(seeds=(0,), slots=2), options=LOCAL)
    assert killed.is_set()
    assert "pool: submitit cluster=local timeout_min=10, 2 at a time, 1 thread a run" in printed
    assert "failed: align width=4 seed 0: ValueError: the latents are not finite" in printed
    assert len(result.outcome.failed) == 1
    finished = (project / "runs/finished.txt").read_text().split()
    assert finished == ["codec", "-", "0", "align", "1", "0", "refine", "1", "0"]
    assert fake_stages.calls().count("align 1 0") == 2  # its job was killed, and handed in again


def _keepers_of(project, name):
    """The job processes whose member trains a run, by the member's note in its log."""
    for log in project.glob("runs/*/log.txt"):
        if f"training {name}" in log.read_text():
            member = int(log.read_text().split("process ")[1].split()[0])
            server = _parent(member)
            return [_parent(server)]
    raise AssertionError(f"{name} has no log")


def _parent(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_job_that_is_preempted_ends_its_step_and_is_queued_again(
    project, sweep_of, run, monkeypatch
):
    monkeypatch.setenv("QK_FAKE_STAGE", "align 4 0=sleep 5")

    def preempt() -> None:
        while "align 4 0" not in fake_stages.calls():
            time.sleep(0.05)
        time.sleep(0.5)
        (job,) = _keepers_of(project, "align 4 0")
        os.kill(job, signal.SIGUSR2)  # submitit's sign of preemption

    threading.Thread(target=preempt, daemon=True).start()
    result, printed = run(sweep_of(seeds=(0,)), options=LOCAL)
    assert result.exit_status == 0, printed
    assert fake_stages.calls().count("align 4 0") == 2
    finished = (project / "runs/finished.txt").read_text().split("\n")[:-1]
    assert len(finished) == len(set(finished)) == 5
    logs = "".join(file.read_text() for file in project.rglob("submitit/*_log.err"))
    logs += "".join(file.read_text() for file in project.rglob("submitit/*_log.out"))
    assert "Requeued job" in logs


def test_options_come_from_the_file_or_the_line_and_are_checked(project, sweep_of, run):
    given = executor_of("submitit", ["cluster=local", "partition=gpu", "timeout_min=600"])
    assert given["timeout_min"] == 600
    with pytest.raises(ConfigError, match="what submitit takes.*partitoin"):
        run(sweep_of(executor={"name": "submitit", "cluster": "local", "partitoin": "gpu"}))
    with pytest.raises(ConfigError, match="what submitit takes.*srun"):
        run(sweep_of(executor={"name": "submitit", "cluster": "slurm"}))
    with pytest.raises(ConfigError, match="executor.name"):
        sweep_of(executor={"name": "slurmm"})
    assert fake_stages.calls() == []
