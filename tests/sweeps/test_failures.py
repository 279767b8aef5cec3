"""Failures: kept with their reason, left until asked for, and alike ones stop the sweep."""

from __future__ import annotations

import json
import os

import fake_stages
import pytest

from qk_lightning.sweeps.engine import RunOptions
from qk_lightning.sweeps.failures import FailFast, likeness
from qk_lightning.sweeps.plan import plan_sweep

RETRY = RunOptions(retry=True)


def test_what_failed_is_left_as_it_is_until_it_is_asked_for(project, sweep_of, run, monkeypatch):
    monkeypatch.setenv("FAKE_STAGE", "align 4 0=raise")
    sweep = sweep_of(seeds=(0,))
    first, printed = run(sweep)
    assert "what failed is left as it is until it is asked for: qk sweep widths --retry" in printed
    (identity,) = first.outcome.failed
    before = len(fake_stages.calls())
    monkeypatch.delenv("FAKE_STAGE")

    plan = plan_sweep(sweep)
    said = plan.describe()
    assert "failed: align width=4 seed 0: ValueError: the latents are not finite; see " in said
    assert "try it again: qk sweep widths --retry failed" in said
    assert "0 of 1 done, 1 failed" in said
    assert plan.to_start == []
    again, printed = run(sweep)
    assert len(fake_stages.calls()) == before
    assert again.exit_status == 1
    assert "failed before: align width=4 seed 0: ValueError" in printed
    assert list(again.outcome.skipped.values()) == [identity]
    assert "latents are not finite" in again.report.read_text()

    wider, _ = run(sweep_of(widths=(1, 4, 16), seeds=(0,)))
    assert fake_stages.calls()[before:] == ["align 16 0", "refine 16 0"]
    assert wider.exit_status == 1
    before = len(fake_stages.calls())
    result, _ = run(sweep, options=RETRY)
    assert fake_stages.calls()[before:] == ["align 4 0", "refine 4 0"]
    assert result.exit_status == 0


@pytest.mark.parametrize(
    ("what", "reason", "kept"),
    [
        ("memory", "MemoryError: (no message)", "bytearray"),
        ("crash", "its process was ended by SIGSEGV", "Fatal Python error: Segmentation fault"),
        ("kill", "its process was ended by SIGKILL (out of memory?)", "training align 4 0"),
    ],
)
def test_no_memory_and_crashes_stop_nothing_else(
    what, reason, kept, project, sweep_of, run, monkeypatch
):
    monkeypatch.setenv("FAKE_STAGE", f"align 4 0={what}")
    result, printed = run(sweep_of(seeds=(0,)))
    assert result.exit_status == 1
    assert f"failed: align width=4 seed 0: {reason}" in printed
    assert "refine 1 0" in fake_stages.calls()
    ((identity, error),) = result.outcome.failed.items()
    assert error == reason
    folder = result.plan.graph[identity].folder
    assert kept in (folder.path / "error.txt").read_text()
    assert plan_sweep(sweep_of(seeds=(0,))).graph[identity].failed == reason


def test_two_that_fail_alike_stop_the_sweep_and_the_running_ones_end(
    project, sweep_of, run, monkeypatch
):
    fates = "align 1 *=number;align 4 0=number;align 4 1=sleep 1.5"
    monkeypatch.setenv("FAKE_STAGE", fates)
    sweep = sweep_of(widths=(4, 1, 16), seeds=(0, 1), slots=1)
    result, printed = run(sweep)
    assert result.exit_status == 1
    assert len(result.outcome.failed) == 2
    assert "given up: 2 runs failed alike (align width=" in printed
    assert "--fail-fast 2; --fail-fast 0 goes on" in printed
    done = [run.label for run in result.plan.graph.values() if run.done]
    assert len(done) < 8
    assert {call.split()[0] for call in fake_stages.calls()} <= {"codec", "align"}
    before = len(fake_stages.calls())

    monkeypatch.delenv("FAKE_STAGE")
    rest, _ = run(sweep)
    assert rest.exit_status == 1  # the two are left
    calls = fake_stages.calls()
    assert len(calls) == len(set(calls)) == before + len(rest.outcome.trained)
    assert len(rest.outcome.trained) == 14 - 2 - 2 - len(done)


def test_failures_that_differ_or_a_limit_of_none_stop_nothing(project, sweep_of, run, monkeypatch):
    monkeypatch.setenv("FAKE_STAGE", "align 1 0=raise the one;align 4 0=raise another thing")
    result, _ = run(sweep_of(widths=(1, 4, 16), seeds=(0,)))
    assert (len(result.outcome.failed), result.outcome.given_up) == (2, "")
    monkeypatch.setenv("FAKE_STAGE", "align * 1=number")
    none = RunOptions(fail_fast=0)
    result, _ = run(sweep_of(widths=(1, 4, 16), seeds=(1,)), options=none)
    assert (len(result.outcome.failed), result.outcome.given_up) == (3, "")


def test_a_run_that_was_stopped_from_outside_goes_on_by_itself(project, sweep_of, run, monkeypatch):
    monkeypatch.setenv("FAKE_STAGE", "align 4 0=stop")
    result, printed = run(sweep_of(seeds=(0,)))
    assert result.exit_status == 1
    assert "stopped: align width=4 seed 0: its process was ended by SIGTERM" in printed
    assert (result.outcome.failed, len(result.outcome.stopped)) == ({}, 1)
    monkeypatch.delenv("FAKE_STAGE")
    before = len(fake_stages.calls())
    result, _ = run(sweep_of(seeds=(0,)))
    assert result.exit_status == 0
    assert fake_stages.calls()[before:] == ["align 4 0", "refine 4 0"]


ALIKE = [
    ("OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1.2 GiB free",
     "OutOfMemoryError: CUDA out of memory. Tried to allocate 512.00 MiB. GPU 3 has 7 MiB free"),
    ("FileNotFoundError: /data/a/x.bin is missing", "FileNotFoundError: ./b.bin is missing"),
    ("KeyError: 'head.0.weight'", "KeyError: 'head.1.weight'"),
    ("ValueError: loss -1.5e-3 at 0x7f01", "ValueError: loss 2 at 0xffab"),
]  # fmt: skip
UNLIKE = [
    ("ValueError: no such part", "KeyError: no such part"),
    ("its process was ended by SIGSEGV", "its process was ended by SIGKILL (out of memory?)"),
]


def test_errors_are_alike_but_for_their_numbers_and_paths():
    for one, other in ALIKE:
        assert likeness(one) == likeness(other)
    for one, other in UNLIKE:
        assert likeness(one) != likeness(other)


def test_fail_fast_counts_each_kind_by_itself():
    fast = FailFast(2)
    assert fast.add("a", "ValueError: 1") == ""
    assert fast.add("b", "KeyError: 1") == ""
    assert fast.add("c", "ValueError: 2").startswith("2 runs failed alike (a; c): ValueError: 2")
    assert FailFast(0).add("a", "x") == FailFast(0).add("b", "x") == ""


def test_folders_of_an_older_version_are_read_as_they_are(project, sweep_of, run, monkeypatch):
    """An older version wrote fewer keys: no run is done again for it, and nothing is lost."""
    monkeypatch.setenv("FAKE_STAGE", "refine 4 0=raise")
    sweep = sweep_of(seeds=(0,))
    first, _ = run(sweep)
    for planned in first.plan.graph.values():
        folder = planned.folder.path
        status = json.loads((folder / "status.json").read_text())
        kept = {key: status[key] for key in ("state", "step")}
        (folder / "status.json").write_text(json.dumps(kept))
        old = {"host": "gone", "pid": "1", "token": "t"}
        (folder / ".lock").write_text(json.dumps(old))
        os.utime(folder / ".lock", (1, 1))
    result = first.report.parent / "result.json"
    result.write_text('{"name": "widths"}')
    monkeypatch.delenv("FAKE_STAGE")
    before = len(fake_stages.calls())

    assert "failed: refine width=4 seed 0: no reason was kept" in plan_sweep(sweep).describe()
    again, _ = run(sweep)
    assert len(fake_stages.calls()) == before
    assert json.loads(result.read_text())["summary"] == first.result["summary"]
    again, _ = run(sweep, options=RETRY)
    assert (again.exit_status, fake_stages.calls()[before:]) == (0, ["refine 4 0"])
