"""What is damaged and can be done without spoils nothing else; what cannot be written is named."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from qk_lightning.cli import doctor
from qk_lightning.cli.main import main
from qk_lightning.config.find_runs import find_run
from qk_lightning.config.run_folder import RunFolder

pytestmark = pytest.mark.usefixtures("tiny_presets")


@pytest.fixture
def run(trained_root: Path, root: Path) -> RunFolder:
    """A trained run in this test's root."""
    shutil.copytree(trained_root / "runs", root / "runs")
    return find_run("stage2")


@pytest.mark.parametrize("content", [b"[1, 2]", b"5", b"\xff\xfe", b'{"state": "do'])
def test_a_damaged_status_counts_as_missing(
    content: bytes, run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    (run.path / "status.json").write_bytes(content)
    for words in (["runs"], ["runs", "show", "stage2"], ["fit", "tiny/stage2", "--plan"]):
        assert main(words) == 0
        assert "stage2-" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("status.json", '{"state": "done", "seconds": null}'),
        ("status.json", '{"state": ["done"], "seconds": "x", "step": {}}'),
        ("parameters.json", '{"vlm": 5, "head": {"total": "many"}}'),
        ("weights.json", '{"format": 1, "entries": "abc"}'),
        ("weights.json", '{"format": 1, "entries": null}'),
        ("weights.json", '{"format": 1, "entries": [5, {"part": ["vlm"]}]}'),
        (".lock", "[1]"),
    ],
)
def test_damaged_entries_count_as_missing(
    name: str,
    content: str,
    run: RunFolder,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (run.path / name).write_text(content)
    runs = [check for check in doctor.QUICK if check[0] == "runs"]
    assert runs
    monkeypatch.setattr(doctor, "QUICK", runs)
    for words in (["runs"], ["runs", "show", "stage2"], ["doctor", "--quick"]):
        assert main(words) == 0
        assert "stage2-" in capsys.readouterr().out or words[0] == "doctor"
    assert main(["runs", "rm", "stage1"]) == 2  # of another run: its child is still known
    assert "remove stage2-" in capsys.readouterr().err


def test_garbage_between_metrics_is_left_out_with_a_word(
    run: RunFolder, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    whole = run.last_metrics()
    with (run.path / "metrics.csv").open("ab") as file:
        file.write(b"\x00\xff\xfe,,,\nstep,metric\n7,val/loss,low\n")
    assert main(["runs", "show", "stage2"]) == 0
    assert "val/loss" in capsys.readouterr().out
    assert run.last_metrics() == whole
    assert "3 lines cannot be read" in caplog.text


def test_what_was_measured_twice_at_a_step_has_its_later_value(run: RunFolder) -> None:
    run.append_metrics(1, {"val/loss": 0.25})
    rows = [row for row in run.metrics() if row["metric"] == "val/loss" and row["step"] == 1]
    assert [row["value"] for row in rows] == [0.25]


def test_an_export_without_its_provenance_says_that_it_is_unknown(run: RunFolder) -> None:
    (run.path / "provenance.json").unlink()
    assert main(["runs", "export", "stage2", "queries", str(run.path.parent / "queries")]) == 0
    assert "- hardware: unknown" in (run.path.parent / "queries" / "CARD.md").read_text()


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_folder_without_the_right_to_write_is_named(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "runs").mkdir(mode=0o500)
    assert main(["fit", "tiny/stage1"]) == 2
    said = capsys.readouterr().err
    assert "write-protected" in said
    assert "chmod u+w" in said
    assert main(["data", "show", "avatars"]) == 2
    assert "write-protected" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "free some, the same command goes on"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "free some"),
        (OSError(errno.EROFS, "Read-only file system", "/x"), "Read-only file system: '/x'"),
        (OSError(errno.ENAMETOOLONG, "File name too long"), "File name too long"),
    ],
)
def test_a_disk_that_refuses_is_answered_without_a_traceback(
    error: Exception,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(options: object) -> int:
        raise error

    monkeypatch.setattr("qk_lightning.cli.runs.runs", fail)
    assert main(["runs", "list"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("qk runs: ")
    assert says in said


def test_another_error_of_the_system_goes_through(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(options: object) -> int:
        raise ConnectionResetError

    monkeypatch.setattr("qk_lightning.cli.runs.runs", fail)
    with pytest.raises(ConnectionResetError):
        main(["runs", "list"])
