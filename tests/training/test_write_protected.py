"""A run folder that may not be written to, as a user without rights meets it."""

from __future__ import annotations

import ctypes
import multiprocessing
import sys
from pathlib import Path

import pytest
import torch
from test_run_stage import weights_of

from qk_lightning.cli.main import main
from qk_lightning.config.chain import plan_chain
from qk_lightning.config.run_folder import RunFolder
from qk_lightning.systems.query_kontext import QueryKontext

pytestmark = pytest.mark.usefixtures("tiny_presets")
WORDS = ["max_steps=6", "validation.num_images=0"]  # a checkpoint every 2 steps
FIT = ["fit", "tiny/stage1", *WORDS]
CONTEXT = multiprocessing.get_context("fork")


def as_user(words: list[str], log: Path, protect: Path | None = None) -> tuple[int, str]:
    """Run a command without the superuser's rights; returns its code and what it printed."""
    process = CONTEXT.Process(target=_run, args=(words, log, protect))
    process.start()
    process.join(120)
    return process.exitcode, log.read_text()


def _run(words: list[str], log: Path, protect: Path | None) -> None:
    torch.set_num_threads(1)
    sys.stdout = sys.stderr = log.open("w", buffering=1)
    give_up_rights()
    if protect is not None:
        _protect_in_the_third_step(protect)
    sys.exit(main(words))


def give_up_rights() -> None:
    """Give up the superuser's privileges; what he owns is still his, as a user's own files are."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3, this process
    assert ctypes.CDLL(None, use_errno=True).capset(header, (ctypes.c_uint32 * 6)()) == 0


def _protect_in_the_third_step(folder: Path) -> None:
    right, calls = QueryKontext.training_step, []

    def protecting(*arguments, **options):
        calls.append(1)
        if len(calls) == 5:  # two micro-batches a step
            folder.chmod(0o555)
        return right(*arguments, **options)

    QueryKontext.training_step = protecting


def digest(run: RunFolder) -> dict[str, bytes]:
    """Return what a run's files hold."""
    return {str(file): file.read_bytes() for file in sorted(run.path.rglob("*")) if file.is_file()}


@pytest.mark.slow
def test_a_write_protected_folder_loses_nothing(tmp_path: Path) -> None:
    run, log = plan_chain("tiny/stage1", WORDS)[0].folder, tmp_path / "log"
    code, said = as_user(FIT, log, protect=run.checkpoints)
    assert code == 1, said
    assert f"[Errno 13] Permission denied: '{run.checkpoints / 'step=4.ckpt'}'" in said
    assert "Traceback" not in said
    assert run.status["state"] == "failed"
    assert [file.name for file in run.checkpoint_files()] == ["step=2.ckpt"]
    for folder in (run.checkpoints, run.path):
        run.checkpoints.chmod(0o755)
        folder.chmod(0o555)
        before = digest(run)
        code, said = as_user(FIT, log)
        assert code == 2, said
        assert f"({folder} is write-protected)" in said
        assert "chmod u+w" in said
        assert "loading the libraries" not in said
        assert digest(run) == before
    run.path.chmod(0o755)
    code, said = as_user(FIT, log)
    assert code == 0, said
    assert "goes on from step 2" in said
    resumed = weights_of(run)
    run.remove()
    assert as_user(FIT, log)[0] == 0
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in weights_of(run).items())


def test_a_folder_that_becomes_write_protected_keeps_its_state(tmp_path: Path) -> None:
    run = plan_chain("tiny/stage1", WORDS)[0].folder
    code, said = as_user(FIT, tmp_path / "log", protect=run.path)
    run.path.chmod(0o755)
    assert code in (0, 1), said
    assert "Traceback" not in said
    assert "Permission denied" in said
    assert run.status["state"] == "failed"
    assert not run.lock().is_held
