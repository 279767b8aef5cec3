"""Running sweeps: nothing twice, failures stay where they are, nobody is left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import fake_stages
import pytest

from qk_lightning.sweeps.engine import RunOptions
from qk_lightning.sweeps.execute import Executor, run_chain
from qk_lightning.sweeps.graph import build_graph
from qk_lightning.sweeps.pool import Event, Pool
from qk_lightning.sweeps.progress import PlainProgress

HERE = Path(__file__).parent


def test_each_run_is_trained_once_and_never_again(project, sweep_of, run, monkeypatch):
    sweep = sweep_of(seeds=(0, 1))
    result, printed = run(sweep)
    assert result.exit_status == 0
    assert len(fake_stages.calls()) == len(set(fake_stages.calls())) == 10
    assert "10 runs (2 shared): 0 done, 10 to run" in printed
    assert "estimated time: 50 s on 2 slots of 1 thread (from presets)" in printed
    log = (result.plan.members[0].chain[0].folder.path / "log.txt").read_text()
    assert "training codec - 0" in log

    monkeypatch.setattr(Pool, "submit", _refuse)
    again, printed = run(sweep)
    assert again.exit_status == 0
    assert "nothing to run" in printed
    assert "val/loss (lower is better)" in printed
    assert len(fake_stages.calls()) == 10


def _refuse(self, job):
    raise AssertionError(f"started {job}")


def test_one_more_value_starts_only_its_own_runs(trained, sweep_of, run):
    trained(sweep_of(seeds=(0,)))
    before = len(fake_stages.calls())
    run(sweep_of(widths=(1, 4, 16), seeds=(0,)))
    assert fake_stages.calls()[before:] == ["align 16 0", "refine 16 0"]


def test_two_sweeps_share_their_runs(trained, sweep_of, run):
    trained(sweep_of(seeds=(0,)))
    before = len(fake_stages.calls())
    axes = {"sharpness": [0, 3]}
    run(sweep_of(seeds=(0,), name="sharp", axes=axes, overrides=["width=4"], baseline={}))
    assert fake_stages.calls()[before:] == ["refine 4 0"]


def test_a_failed_run_takes_its_descendants_along_and_nothing_else(
    project, sweep_of, run, monkeypatch
):
    monkeypatch.setenv("FAKE_STAGE", "align 4 0=raise")
    result, printed = run(sweep_of(seeds=(0,)))
    assert result.exit_status == 1
    assert sorted(fake_stages.calls()) == ["align 1 0", "align 4 0", "codec - 0", "refine 1 0"]
    assert "failed: align width=4 seed 0: ValueError: the latents are not finite" in printed
    assert "skipped for it: refine width=4 seed 0" in printed
    (failed,) = result.outcome.failed
    folder = result.plan.graph[failed].folder
    assert "not finite" in (folder.path / "error.txt").read_text()
    assert folder.status["state"] == "failed"

    monkeypatch.delenv("FAKE_STAGE")
    before = len(fake_stages.calls())
    result, _ = run(sweep_of(seeds=(0,)), options=RunOptions(retry=True))
    assert result.exit_status == 0
    assert fake_stages.calls()[before:] == ["align 4 0", "refine 4 0"]
    assert not (folder.path / "error.txt").exists()


def test_a_killed_sweep_leaves_no_member_and_goes_on_where_it_was(project, sweep_of, run):
    script = textwrap.dedent("""
        import fake_stages
        from qk_lightning.sweeps import plan
        from qk_lightning.sweeps.reader import parse_sweep
        from qk_lightning.sweeps.run import run_sweep

        plan.plan_chain = fake_stages.plan_chain
        if __name__ == "__main__":
            sweep = {"name": "widths", "preset": "fake", "axes": {"width": [1, 4]}, "seeds": [0]}
            run_sweep(parse_sweep(sweep), target=fake_stages.TARGET, preload=fake_stages.PRELOAD)
    """)
    (project / "main.py").write_text(script)
    path = os.pathsep.join([str(HERE), str(HERE.parents[1])])
    environment = {**os.environ, "PYTHONPATH": path, "FAKE_STAGE": "align 4 0=hang"}
    command = [sys.executable, str(project / "main.py")]
    parent = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    _wait_for(lambda: "refine 1 0" in fake_stages.calls() and "align 4 0" in fake_stages.calls())
    _wait_for(lambda: (project / "runs/hanging.pid").is_file())
    member = int((project / "runs/hanging.pid").read_text())
    assert _is_alive(member)
    parent.kill()
    parent.wait()
    _wait_for(lambda: not _is_alive(member))

    before = fake_stages.calls()
    result, _ = run(sweep_of(seeds=(0,)))
    assert result.exit_status == 0
    repeated = set(fake_stages.calls()[len(before) :])
    assert "align 4 0" in repeated
    assert not repeated & {"codec - 0", "align 1 0"}


def _is_alive(pid):
    status = Path(f"/proc/{pid}/status")
    return status.is_file() and "State:\tZ" not in status.read_text()


def _wait_for(condition, seconds=15.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def test_ctrl_c_ends_the_members_and_says_how_to_go_on(project, sweep_of, run, monkeypatch):
    monkeypatch.setenv("FAKE_STAGE", "align 4 0=hang")
    events = Pool.events

    def interrupted(self, timeout=1.0):
        if (project / "runs/hanging.pid").is_file():
            raise KeyboardInterrupt
        yield from events(self, 0.05)

    monkeypatch.setattr(Pool, "events", interrupted)
    result, printed = run(sweep_of(seeds=(0,)))
    assert result.exit_status == 130
    assert "the same command goes on" in printed
    assert not _is_alive(int((project / "runs/hanging.pid").read_text()))


def test_a_run_that_another_process_holds_is_waited_for(project, sweep_of, run):
    folder = fake_stages.plan_chain("", ["width=1", "seed=0"])[0].write()
    code = f"""
        import time
        from pathlib import Path
        from qk_lightning.config.run_folder import RunFolder
        folder = RunFolder(Path({str(folder.path)!r}))
        with folder.lock():
            print("held", flush=True)
            time.sleep(1.5)
            folder.write_status(state="done", seconds=1.0)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        result, _ = run(sweep_of(widths=(1,), seeds=(0,)))
    assert result.exit_status == 0
    assert fake_stages.calls() == ["align 1 0", "refine 1 0"]
    assert len(result.outcome.found) == 1


def test_overrides_make_it_another_sweep(trained, sweep_of, run):
    first = trained(sweep_of(seeds=(0,)))
    other, _ = run(sweep_of(seeds=(0,)), overrides=["sharpness=2"])
    assert other.report.parent != first.folder
    assert "for every member: `sharpness=2`" in other.report.read_text()
    assert sorted(fake_stages.calls()[-2:]) == ["refine 1 0", "refine 4 0"]


def test_a_failure_does_not_wait_for_another_process_that_trains_the_run(project):
    graph = build_graph([("", fake_stages.plan_chain("", []))])
    codec = next(iter(graph.values()))
    executor = Executor(graph, PlainProgress(3, write=lambda _: None))
    executor._start(codec)
    codec.folder.write_status(state="running")
    with codec.folder.lock():
        executor._take(Event(codec.identity, "failed", "killed"))
    assert codec.folder.status["state"] == "running"
    assert list(executor.outcome.failed) == [codec.identity]


def test_a_run_that_another_process_finished_meanwhile_is_found_and_not_failed(project):
    graph = build_graph([("", fake_stages.plan_chain("", []))])
    codec = next(iter(graph.values()))
    executor = Executor(graph, PlainProgress(3, write=lambda _: None))
    executor._start(codec)
    codec.folder.write_status(state="done")
    executor._take(Event(codec.identity, "failed", "killed"))
    assert executor.outcome.found == [codec.identity]
    assert (executor.outcome.failed, executor.outcome.skipped) == ({}, {})


def test_one_chain_trains_in_this_process(project, monkeypatch):
    plans = fake_stages.plan_chain("", ["seed=3"])
    outcome = run_chain(plans, plain=True, target=fake_stages.TARGET)
    assert len(outcome.trained) == 3
    assert run_chain(plans, plain=True, target=fake_stages.TARGET).trained == []

    monkeypatch.setenv("FAKE_STAGE", "align 2 0=raise")
    plans = fake_stages.plan_chain("", ["width=2"])
    with pytest.raises(ValueError, match="not finite"):
        run_chain(plans, plain=True, target=fake_stages.TARGET)
    assert "not finite" in (plans[1].folder.path / "error.txt").read_text()


def test_the_process_that_starts_a_sweep_stays_light():
    code = (
        "import sys, qk_lightning.sweeps.run; "
        "print(sorted({'torch', 'lightning', 'mlflow', 'matplotlib', 'scipy'} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"
