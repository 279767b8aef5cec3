"""Ctrl-C at any moment, and a kill at the worst one: the same command goes on, to the same end.

Ctrl-C is a KeyboardInterrupt raised at a chosen call; one real signal goes to a real process.
"""

from __future__ import annotations

import multiprocessing
import os
import pkgutil
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from qk_lightning.cli.main import main
from qk_lightning.config.find_runs import list_runs
from qk_lightning.config.run_folder import RunFolder
from qk_lightning.systems.query_kontext import QueryKontext

pytestmark = pytest.mark.usefixtures("tiny_presets")

FIT = ["fit", "tiny/stage1"]
SYSTEM = "qk_lightning.systems.query_kontext.QueryKontext"
HOW_TO_GO_ON = "stopped; the same command goes on"


def stop_at(patch: pytest.MonkeyPatch, target: str, call: int) -> None:
    """Let a function go on as it is until a call of it that Ctrl-C hits."""
    place, _, name = target.rpartition(".")
    owner = pkgutil.resolve_name(place)
    right, calls = getattr(owner, name), []

    def stopped(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return right(*arguments, **options)

    patch.setattr(owner, name, stopped)


@dataclass(frozen=True)
class End:
    """What a finished run trained and measured."""

    weights: dict[str, torch.Tensor]
    metrics: list[dict[str, Any]]

    @classmethod
    def of(cls, run: RunFolder) -> End:
        """Read it."""
        assert run.is_done
        weights = {
            f"{file.relative_to(run.weights)}:{name}": tensor
            for file in sorted(run.weights.rglob("*.safetensors"))
            for name, tensor in load_file(file).items()
        }
        rows = [row for row in run.metrics() if not row["metric"].startswith("perf/")]
        return cls(weights, rows)

    def same_as(self, other: End) -> bool:
        """Tell whether two runs ended bit for bit alike."""
        names = self.weights.keys()
        return (
            names == other.weights.keys()
            and all(torch.equal(self.weights[name], other.weights[name]) for name in names)
            and self.metrics == other.metrics
        )


@pytest.fixture(scope="module")
def straight() -> Iterator[Callable[[], End]]:
    """What the command ends with if nothing stops it; trained once, in the first test's root."""
    kept: list[End] = []

    def end() -> End:
        """Train on the first call, in a root that is the test's alone, and leave no run there."""
        if not kept:
            assert main(FIT) == 0
            (run,) = list_runs()
            kept.append(End.of(run))
            shutil.rmtree(run.path.parent)
        return kept[0]

    yield end


POINTS = {
    "planning": ("qk_lightning.cli.train.plan_chain", 1),
    "checking the parts": ("qk_lightning.cli.train.check", 1),
    "writing the plan": ("qk_lightning.config.chain.StagePlan.write", 1),
    "drawing the world": ("qk_lightning.data.worlds.avatars.Avatars.draw", 7),
    "loading the weights": ("qk_lightning.assembly.replay._apply", 2),
    "encoding the pictures": ("qk_lightning.data.latent_cache._encode_all", 1),
    "the first step": (f"{SYSTEM}.training_step", 1),
    "the second step": (f"{SYSTEM}.training_step", 3),
    "writing a checkpoint": ("torch.save", 2),
    "writing the weights": ("qk_lightning.assembly.trainable.save_file", 1),
    "the validation loss": (f"{SYSTEM}.validation_step", 1),
    "drawing pictures to score": ("qk_lightning.evaluation.draw.SystemDrawer.__call__", 2),
    "marking it as done": ("qk_lightning.sweeps.stage.keep_newest", 1),
}


@pytest.mark.slow
def test_ctrl_c_at_every_moment_of_one_run_and_it_ends_as_if_nothing_had_been(
    straight: Callable[[], End],
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    expected = straight()
    for point, (target, call) in POINTS.items():
        capsys.readouterr()
        with monkeypatch.context() as patch:
            stop_at(patch, target, call)
            assert main(FIT) == 130, point
        captured = capsys.readouterr()
        assert HOW_TO_GO_ON in captured.out + captured.err, point
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, point
        assert [path.name for path in root.rglob("*.part*")] == [], point
        for run in list_runs():
            assert run.state == "stopped", point
            assert not run.lock().is_held, point
    assert main(FIT) == 0
    (run,) = list_runs()
    assert End.of(run).same_as(expected)


def press_at(patch: pytest.MonkeyPatch, call: int, number: signal.Signals) -> None:
    """Send this process a real signal in a micro-batch; training goes on after it."""
    right, calls = QueryKontext.training_step, []

    def pressed(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            os.kill(os.getpid(), number)
        return right(*arguments, **options)

    patch.setattr(QueryKontext, "training_step", pressed)


def test_a_real_ctrl_c_keeps_every_step_that_was_begun(
    straight: Callable[[], End],
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    expected = straight()
    words = [*FIT, "checkpoint_every=50", "name=pressed"]
    # Two micro-batches a step, four steps: the first of each, the second of one, the last of all.
    # The last press comes in the step that ends training.
    for call, step, number, code in (
        (1, 1, signal.SIGINT, 130),
        (2, 2, signal.SIGTERM, 75),
        (4, 4, signal.SIGHUP, 130),
    ):
        capfd.readouterr()
        with monkeypatch.context() as patch:
            press_at(patch, call, number)
            assert main(words) == code, step
        (run,) = list_runs()
        assert run.last_checkpoint_step == step
        assert run.state == "stopped"
        said = capfd.readouterr()
        assert f"from step {step}" in said.out
        assert "Ctrl-C again stops at once" in said.err
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)
    assert main(words) == 0
    assert "goes on from step 4" in capfd.readouterr().out
    assert End.of(run).same_as(expected)
    assert len(run.checkpoint_files()) == 1


def test_a_second_ctrl_c_stops_at_once_and_the_plan_says_that_no_step_is_kept(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*FIT, "checkpoint_every=50"]
    right, calls = QueryKontext.training_step, []

    def pressed(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        for _ in range(2 * (len(calls) == 5)):
            os.kill(os.getpid(), signal.SIGINT)
        return right(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(QueryKontext, "training_step", pressed)
        assert main(words) == 130
    assert "from its start: no step was kept" in capsys.readouterr().out
    assert main([*words, "name=again", "--plan"]) == 0
    said = capsys.readouterr().out
    assert "interrupted at step 2, no checkpoint: starts again" in said
    (run,) = list_runs()
    assert f"(the same run as {run.name}, so name=again is not used)" in said


def die_while_renaming() -> None:
    """Train in this (forked) process; a kill hits between a checkpoint's bytes and its name."""
    torch.set_num_threads(1)
    right = Path.replace
    checkpoints: list[Path] = []

    def replace(path: Path, target: Path) -> Path:
        if path.suffix == ".ckpt":
            checkpoints.append(path)
            if len(checkpoints) == 2:
                os.kill(os.getpid(), signal.SIGKILL)
        return right(path, target)

    Path.replace = replace  # type: ignore[method-assign,assignment]
    main(FIT)


@pytest.mark.distributed
@pytest.mark.slow
def test_a_kill_between_writing_and_renaming_a_checkpoint(
    straight: Callable[[], End], root: Path
) -> None:
    expected = straight()
    child = multiprocessing.get_context("fork").Process(target=die_while_renaming)
    child.start()
    child.join(120)
    assert child.exitcode == -signal.SIGKILL
    (run,) = list_runs()
    (left,) = run.checkpoints.glob(".*.part.ckpt")
    assert [file.name for file in run.checkpoint_files()] == ["step=2.ckpt"]
    assert run.state == "interrupted"
    assert main(FIT) == 0
    assert not left.exists()
    assert End.of(run).same_as(expected)


@pytest.fixture
def trained(trained_root: Path, root: Path) -> Path:
    """A copy of the trained chain in this test's root."""
    shutil.copytree(trained_root / "runs", root / "runs")
    return root


def files(folder: Path, pattern: str) -> dict[str, bytes]:
    """The content of files by name."""
    return {path.name: path.read_bytes() for path in sorted(folder.rglob(pattern))}


@pytest.mark.slow
def test_ctrl_c_in_evaluate_goes_on_with_the_pictures_that_are_missing(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", "stage2", "avatars", "--limit", "1"]
    (run,) = (run for run in list_runs() if run.name.startswith("stage2"))
    standing = set((run.path / "evaluations").glob("*"))
    assert main(words) == 0
    (folder,) = set((run.path / "evaluations").glob("*")) - standing
    expected = files(folder, "results.jsonl")
    shutil.rmtree(folder)
    capsys.readouterr()
    with monkeypatch.context() as patch:
        stop_at(patch, "qk_lightning.evaluation.draw.SystemDrawer.__call__", 2)
        assert main(words) == 130
    assert HOW_TO_GO_ON in capsys.readouterr().err
    drawn = {path: path.stat().st_mtime_ns for path in folder.rglob("*.png")}
    assert drawn
    assert not files(folder, "results.jsonl")
    assert main(words) == 0
    assert files(folder, "results.jsonl") == expected
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in drawn.items())


def test_ctrl_c_in_generate_leaves_whole_pictures_alone(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["generate", "stage2", "--prompt", "a person", "--num-images", "3", "--output"]
    assert main([*words, str(trained / "straight")]) == 0
    expected = files(trained / "straight", "*.png")
    with monkeypatch.context() as patch:
        stop_at(patch, "PIL.Image.Image.save", 2)
        assert main([*words, str(trained / "out")]) == 130
    assert HOW_TO_GO_ON in capsys.readouterr().err
    assert [path.name for path in (trained / "out").iterdir()] == [min(expected)]
    assert main([*words, str(trained / "out")]) == 0
    assert files(trained / "out", "*.png") == expected


def test_what_a_scheduler_sends_stops_as_ctrl_c_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def terminated(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("qk_lightning.cli.train.plan_chain", terminated)
    assert main(FIT) == 75  # EX_TEMPFAIL: try again
    assert HOW_TO_GO_ON in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_real_ctrl_c_to_a_real_process(
    number: signal.Signals, code: int, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*FIT, "max_steps=400"]
    command = [sys.executable, "-m", "qk_lightning", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 300
    while not list(root.glob("runs/*/checkpoints/*.ckpt")) and time.monotonic() < end:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == code
    assert HOW_TO_GO_ON in out
    assert "Traceback" not in err
    (run,) = list_runs()
    assert run.status["state"] == "stopped"
    step = run.last_checkpoint_step
    assert main(words) == 0
    assert f"goes on from step {step}" in capsys.readouterr().out
    assert run.is_done


SWEEP = """
preset: tiny/stage1
overrides: [max_steps=4000, checkpoint_every=4000]
axes: {queries.num_queries: [1, 2]}
seeds: [0]
"""


@pytest.mark.slow
def test_ctrl_c_in_a_sweep_keeps_the_steps_of_its_members(root: Path) -> None:
    (root / "mine.yaml").write_text(SWEEP)
    words = [sys.executable, "-m", "qk_lightning", "sweep", str(root / "mine.yaml")]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        end = time.monotonic() + 300
        while len(list(root.glob("runs/*/metrics.csv"))) < 2 and time.monotonic() < end:
            assert process.poll() is None
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the members too
        out, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "stopping 2 runs: each ends its step and keeps it" in out
    assert "Traceback" not in err
    for run in list_runs():
        assert run.status["state"] == "stopped"
        assert run.last_checkpoint_step > 0
        assert not run.lock().is_held
