"""What a scheduler's signals do to a command: its exit code, its job, its members."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from qk_lightning.cli.main import main
from qk_lightning.config import stop_signals

REFUSES = "echo 'Job is not yours' >&2; exit 1"


@pytest.fixture(autouse=True)
def _forgotten():
    stop_signals.forget()
    yield
    stop_signals.forget()


def stopped_by(*numbers: signal.Signals) -> None:
    """Send this process real signals."""
    for number in numbers:
        with pytest.raises(KeyboardInterrupt), stop_signals.as_ctrl_c():
            os.kill(os.getpid(), number)
            time.sleep(1)
        assert signal.getsignal(number) == signal.SIG_DFL


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    """Put a program of that name on PATH; returns what it notes its words in."""

    def make(then: str = "") -> Path:
        folder, note = tmp_path / "bin", tmp_path / "note"
        folder.mkdir()
        (folder / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {note}\n{then}\n')
        (folder / "scontrol").chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        return note

    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    return make


@pytest.mark.parametrize(
    ("number", "code"), [("SIGTERM", 75), ("SIGUSR1", 75), ("SIGUSR2", 75), ("SIGHUP", 130)]
)
def test_the_exit_code_says_who_stopped_it(number, code):
    assert stop_signals.exit_code() == 130
    stopped_by(signal.Signals[number])
    assert stop_signals.exit_code() == code


def test_a_warning_of_slurm_requeues_the_job(scontrol):
    note = scontrol()
    stopped_by(signal.SIGTERM)
    assert stop_signals.requeue() == ""  # SLURM does it, or `scancel` was meant
    stopped_by(signal.SIGUSR1)
    assert stop_signals.requeue() == "job 4711 is requeued"
    assert note.read_text() == "requeue 4711\n"


def test_the_task_of_an_array_is_requeued(scontrol, monkeypatch):
    note = scontrol()
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    stopped_by(signal.SIGUSR2)
    assert stop_signals.requeue() == "job 12_3 is requeued"
    assert note.read_text() == "requeue 12_3\n"


def test_one_rank_requeues(scontrol, monkeypatch):
    note = scontrol()
    monkeypatch.setenv("SLURM_PROCID", "1")
    stopped_by(signal.SIGUSR1)
    assert stop_signals.requeue() == ""
    assert not note.exists()


def test_a_job_that_cannot_be_requeued_is_said(scontrol, monkeypatch):
    stopped_by(signal.SIGUSR1)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", "/nowhere")
        assert "no scontrol on PATH" in stop_signals.requeue()
        assert "scontrol requeue 4711" in stop_signals.requeue()
    scontrol(REFUSES)
    assert stop_signals.requeue() == "scontrol refused to requeue job 4711: Job is not yours"


def test_a_command_requeues_its_job_and_ends_with_75(scontrol, monkeypatch, capsys):
    note = scontrol()

    def warned(*_):
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(1)

    monkeypatch.setattr("qk_lightning.cli.runs.runs", warned)
    assert main(["runs", "list"]) == 75
    assert "job 4711 is requeued" in capsys.readouterr().err
    assert note.read_text() == "requeue 4711\n"


MEMBER = """
import signal, time
from pathlib import Path

def train(folder):
    asked = []
    signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
    Path(folder, "begun").touch()
    while not asked:
        time.sleep(0.01)
    time.sleep(1)
    Path(folder, "kept").touch()
    raise KeyboardInterrupt
"""
COMMAND = """
import sys
from pathlib import Path
from qk_lightning.sweeps.pool import Pool
from qk_lightning.config.stop_signals import as_ctrl_c
from qk_lightning.sweeps.worker import Job

folder = Path(sys.argv[1])
with as_ctrl_c(), Pool(1, 1, "member") as pool:
    pool.submit(Job("one", "member:train", (str(folder),), folder))
    try:
        while pool.running:
            list(pool.events())
    except KeyboardInterrupt:
        pool.terminate()
    while pool.running:
        for event in pool.events():
            print(event.kind, event.data, (folder / "kept").exists())
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_all_processes_lets_members_keep_their_step(number, tmp_path):
    (tmp_path / "member.py").write_text(textwrap.dedent(MEMBER))
    paths = [str(tmp_path), str(Path(stop_signals.__file__).parents[2])]
    command = subprocess.Popen(
        [sys.executable, "-c", COMMAND, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 30
    while not (tmp_path / "begun").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(command.pid, number)
    out, _ = command.communicate(timeout=30)
    assert out == "stopped it was stopped from outside, with exit code 130 True\n"
    assert command.returncode == 0
