"""Ctrl-C and a scheduler's signals to a run on two ranks: to any process, all keep one step."""

from __future__ import annotations

import os
import signal
import stat
from pathlib import Path

import pytest
import torch
from started import TORCHRUN, Started, last_step, ranks_of, started, until
from test_run_stage import results_of, weights_of

from qk_lightning.config.chain import plan_chain
from qk_lightning.config.find_runs import list_runs
from qk_lightning.config.run_folder import RunFolder

pytestmark = [
    pytest.mark.slow,
    pytest.mark.distributed,
    pytest.mark.usefixtures("tiny_presets"),
]
STEPS = 45
WORDS = [
    f"max_steps={STEPS}",
    "checkpoint_every=1000",
    "validation.num_images=0",
    "trainer.devices=2",
    "trainer.strategy=fsdp",
]
FIT = ["fit", "tiny/stage1", *WORDS]


@pytest.fixture
def run() -> RunFolder:
    """The folder of the run."""
    return plan_chain("tiny/stage1", WORDS)[0].folder


@pytest.fixture
def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program of that name on PATH, and the file in which it notes its words."""
    folder, note = tmp_path / "bin", tmp_path / "scontrol.txt"
    folder.mkdir()
    program = folder / "scontrol"
    program.write_text(f'#!/bin/sh\necho "$@" >> {note}\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    return note


def send(command: Started, run: RunFolder, number: signal.Signals, target: str) -> None:
    """Send a signal once a few steps more are done."""
    first = last_step(run)
    ready = lambda: command.is_over() or last_step(run) >= max(first, run.last_checkpoint_step) + 3  # noqa: E731
    until(ready, what="step", said=lambda: command.said)
    assert command.code is None, command.said
    if target == "group":
        os.killpg(command.pid, number)
    else:
        pid = command.pid if target == "parent" else ranks_of(run, command)[int(target)]
        os.kill(pid, number)


def assert_kept(command: Started, run: RunFolder, code: int) -> None:
    """See that the command ended, its run's step was kept, and nothing runs on."""
    before = run.last_checkpoint_step
    assert command.wait(60) == code, command.said
    assert run.state == "stopped", run.status
    assert run.last_checkpoint_step == last_step(run) > before
    assert not run.lock().is_held
    until(lambda: not command.left(), 30, f"end of {command.left()}")
    assert "Traceback" not in command.said


def test_a_signal_to_any_process_keeps_one_step_and_the_end_is_the_same(
    run: RunFolder, tmp_path: Path, scontrol: Path
) -> None:
    with started(FIT, tmp_path / "straight.txt") as command:
        assert command.wait() == 0, command.said
    expected, metrics = weights_of(run), results_of(run)
    run.remove()
    signals = [
        (signal.SIGINT, "group", 130),  # as a terminal sends it
        (signal.SIGTERM, "parent", 75),
        (signal.SIGTERM, "0", 75),
        (signal.SIGTERM, "1", 75),
        (signal.SIGTERM, "group", 75),  # as a scheduler sends it
        (signal.SIGHUP, "group", 130),
        (signal.SIGUSR1, "group", 75),
    ]
    for count, (number, target, code) in enumerate(signals):
        with started(FIT, tmp_path / f"{count}.txt") as command:
            send(command, run, number, target)
            assert_kept(command, run, code)
        print(f"{number.name} to {target}: kept step {run.last_checkpoint_step}")
        assert scontrol.is_file() == (number is signal.SIGUSR1)
    assert scontrol.read_text() == "requeue 4711\n"
    assert "job 4711 is requeued" in command.said
    with started(FIT, tmp_path / "end.txt") as command:
        assert command.wait() == 0, command.said
    resumed = weights_of(run)
    assert resumed.keys() == expected.keys()
    assert all(torch.equal(resumed[name], expected[name]) for name in expected)
    assert results_of(run) == metrics


def test_a_second_ctrl_c_stops_ranks_at_once(run: RunFolder, tmp_path: Path) -> None:
    with started(FIT, tmp_path / "log.txt") as command:
        until(lambda: last_step(run) >= 2 or command.is_over(), said=lambda: command.said)
        stuck = ranks_of(run, command)[1]
        os.kill(stuck, signal.SIGSTOP)  # the step cannot end
        os.killpg(command.pid, signal.SIGINT)
        until(lambda: "end their step" in command.said or command.is_over())
        assert not command.is_over(), command.said
        os.killpg(command.pid, signal.SIGINT)
        assert command.wait(20) == 130, command.said
        until(lambda: not command.left(), 10, f"end of {command.left()}")
    assert run.state == "stopped"
    assert not run.lock().is_held


def test_signals_under_torchrun(run: RunFolder, tmp_path: Path) -> None:
    words = [*TORCHRUN, "-m", "qk_lightning", *FIT]
    for count, (number, target) in enumerate([(signal.SIGTERM, "1"), (signal.SIGINT, "parent")]):
        with started(words, tmp_path / f"{count}.txt") as command:
            send(command, run, number, target)
            before = run.last_checkpoint_step
            command.wait(60)
            until(lambda c=command: not c.left(), 30, "end of the ranks")
        assert run.state == "stopped", command.said
        assert run.last_checkpoint_step == last_step(run) > before
        assert not run.lock().is_held
        if target == "1":
            assert "exitcode  : 75" in command.said


def test_sigterm_in_the_second_of_three_stages(tmp_path: Path) -> None:
    words = ["all.max_steps=12", "all.trainer.checkpoint_every=100", "all.validation.num_images=0"]
    words += ["all.trainer.devices=2", "all.trainer.strategy=fsdp"]
    runs = [plan.folder for plan in plan_chain("tiny/stage3", words)]
    command_words = ["fit", "tiny/stage3", *words]
    with started(command_words, tmp_path / "log.txt") as command:
        send(command, runs[1], signal.SIGTERM, "group")
        assert_kept(command, runs[1], 75)
    assert runs[0].is_done
    assert not runs[2].has_config
    step = runs[1].last_checkpoint_step
    with started(command_words, tmp_path / "again.txt") as command:
        assert command.wait() == 0, command.said
    assert f"goes on from step {step}" in command.said
    assert all(run.is_done for run in runs)


SWEEP = """
preset: tiny/stage1
overrides:
  - max_steps=40
  - checkpoint_every=1000
  - validation.num_images=0
  - trainer.devices=2
  - trainer.strategy=fsdp
axes: {queries.num_queries: [1, 2]}
seeds: [0]
"""


def test_sigterm_to_a_sweep_of_runs_on_ranks(root: Path, tmp_path: Path) -> None:
    (root / "mine.yaml").write_text(SWEEP)
    words = ["sweep", str(root / "mine.yaml")]

    def steps() -> list[int]:
        return [last_step(run) for run in list_runs()]

    with started(words, tmp_path / "log.txt") as command:
        ready = lambda: command.is_over() or len(steps()) == 2 and min(steps()) > 2  # noqa: E731
        until(ready, 600, "steps", lambda: command.said)
        os.kill(command.pid, signal.SIGTERM)
        assert command.wait(120) == 75, command.said
        until(lambda: not command.left(), 30, f"end of {command.left()}")
    assert "stopping 2 runs: each ends its step and keeps it" in command.said
    kept = {}
    for run in list_runs():
        assert run.status["state"] == "stopped"
        assert run.last_checkpoint_step == last_step(run) > 0
        assert not run.lock().is_held
        kept[run.name] = run.last_checkpoint_step
    with started(words, tmp_path / "again.txt") as command:
        assert command.wait(900) == 0, command.said
    for run in list_runs():
        assert run.is_done
        log = (run.path / "ranks" / "0" / "log.txt").read_text()
        assert f"from its checkpoint, step {kept[run.name]}" in log
