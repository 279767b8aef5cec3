"""A disk that fills up under a run, and a folder that may not be written: real ones, small.

The disk is a tmpfs where this process may mount one, and a limit on the size of files elsewhere.
"""

from __future__ import annotations

import os
import pkgutil
import re
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from started import started, until
from test_run_stage import train, weights_of

from qk_lightning.cli.main import main
from qk_lightning.config.chain import plan_chain
from qk_lightning.config.run_folder import RunFolder

pytestmark = pytest.mark.shared_root
WORDS = ["max_steps=6", "validation.num_images=0"]  # a checkpoint every 2 steps
FIT = ["fit", "tiny/stage1", *WORDS]
DISK = 24 << 20
BLOCK = 4096


@pytest.fixture(scope="module")
def straight(shared_presets: Path) -> dict[str, torch.Tensor]:
    """What the run trains where nothing happens; nothing of it is left."""
    run = train(plan_chain("tiny/stage1", WORDS))[0]
    expected = weights_of(run)
    run.remove()
    return expected


@pytest.fixture
def run(straight: dict[str, torch.Tensor]) -> RunFolder:
    """The folder of the run."""
    return plan_chain("tiny/stage1", WORDS)[0].folder


def assert_goes_on(run: RunFolder, straight: dict[str, torch.Tensor]) -> None:
    """Run the command again, and see that it ends as if nothing had been."""
    assert main(FIT) == 0
    assert run.is_done
    resumed = weights_of(run)
    assert resumed.keys() == straight.keys()
    assert all(torch.equal(resumed[name], straight[name]) for name in straight)
    run.remove()


def assert_whole(run: RunFolder) -> None:
    """See that nothing stands there that is half written, and nobody holds the folder."""
    assert not run.lock().is_held
    assert [path.name for path in run.path.rglob("*.part*")] == []
    assert not run.weights.exists() or not list(run.weights.rglob("*.safetensors"))
    for file in run.checkpoint_files():
        torch.load(file, weights_only=True)


@contextmanager
def limited(size: int) -> Iterator[None]:
    """Let no file grow beyond a size, in this process."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_checkpoint_over_a_size_limit(
    run: RunFolder, straight: dict[str, torch.Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    with limited(100_000):
        assert main(FIT) == 1
    said = capsys.readouterr().err
    (takes,) = re.findall(r"File too large \(it takes ([\d,]+) bytes, the limit", said)
    learns = sum(count["trainable"] for count in run.read_json("parameters.json").values())
    assert 16 * learns <= int(takes.replace(",", "")) < 17 * learns  # moments, average, counters
    assert "is 100,000 bytes)" in said
    assert str(run.checkpoints / "step=2.ckpt") in said
    assert run.status["state"] == "failed"
    assert "File too large" in run.status["error"]
    assert run.checkpoint_files() == []
    assert_whole(run)
    assert_goes_on(run, straight)


@pytest.fixture
def disk(root: Path) -> Iterator[Path]:
    """A small disk where the runs stand."""
    folder = root / "runs"
    folder.mkdir(exist_ok=True)
    words = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "qk-test", str(folder)]
    if os.geteuid() or subprocess.run(words, capture_output=True).returncode:
        pytest.skip("only the superuser can mount a disk; the size limit is tested above")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path, left: int) -> None:
    """Leave so many bytes free, and none in the last block of the metrics."""
    for file in disk.glob("*/metrics.csv"):
        with file.open("a") as rows:
            rows.write("1000000,x,0\n" * (-file.stat().st_size % BLOCK // 12))
    with (disk / "ballast").open("wb") as file:
        file.write(b"\0" * (shutil.disk_usage(disk).free - left))
    assert shutil.disk_usage(disk).free == left


@contextmanager
def filled_at(target: str, call: int, disk: Path, left: int) -> Iterator[None]:
    """Fill the disk just before a chosen call of a function; the function is as it is."""
    place, _, name = target.rpartition(".")
    owner, calls = pkgutil.resolve_name(place), []
    right: Callable[..., Any] = getattr(owner, name)

    def full(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            fill(disk, left)
        return right(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, full)
        yield
    assert len(calls) >= call


FOLDER = "qk_lightning.config.run_folder.RunFolder"
# when it fills up, bytes that are left, the file that does not fit, the checkpoint that is there
POINTS = {
    "at the start": ("qk_lightning.config.chain.StagePlan.write", 1, 0, "overrides.json", 0),
    "first checkpoint": ("torch.save", 1, 40960, "step=2.ckpt", 0),
    "later checkpoint": ("torch.save", 2, 4096, "step=4.ckpt", 2),
    "metrics": (f"{FOLDER}.append_metrics", 3, 0, "metrics.csv", 2),
    "final weights": ("qk_lightning.assembly.trainable.save_file", 1, 0, "vlm.lora.safetensors", 6),
}


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
def test_a_disk_fills_up(
    point: str,
    disk: Path,
    run: RunFolder,
    straight: dict[str, torch.Tensor],
    capsys: pytest.CaptureFixture[str],
) -> None:
    target, call, left, file, step = POINTS[point]
    with filled_at(target, call, disk, left):
        assert main(FIT) == 1
    said = capsys.readouterr().err
    print(said)
    assert "No space left on device (it takes " in said
    assert "bytes are free)" in said
    assert file in said
    assert "free some, the same command goes on" in said
    if run.has_config:
        assert run.status["state"] == "failed"
        assert "No space left" in run.status["error"]
    assert run.last_checkpoint_step == step
    assert_whole(run)
    (disk / "ballast").unlink()
    assert_goes_on(run, straight)


@pytest.mark.slow
@pytest.mark.distributed
def test_a_checkpoint_over_a_size_limit_on_ranks(
    run: RunFolder, straight: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    words = [*FIT, "trainer.devices=2", "trainer.strategy=fsdp"]
    with limited(100_000), started(words, tmp_path / "log.txt") as command:
        assert command.wait() == 1, command.said
        until(lambda: not command.left(), 30, f"end of {command.left()}")
    assert "qk fit: rank 0: DiskFull: [Errno 27] File too large (it takes " in command.said
    assert str(run.checkpoints / "step=2.ckpt") in command.said
    assert str(run.path / "ranks" / "0" / "log.txt") in command.said
    assert "rank 1 lost the others" in command.said
    assert "Traceback" not in command.said
    assert run.status["state"] == "failed"
    assert_whole(run)
    run.remove()


def test_a_disk_that_is_too_small_is_said_before_the_first_step(
    disk: Path, run: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    fill(disk, 3 << 20)
    words = ["max_steps=1", "validation.num_images=0", "name=short"]
    assert main(["fit", "tiny/stage1", *words]) == 0
    (said,) = [r.getMessage() for r in caplog.records if "checkpoints of short" in r.getMessage()]
    sizes = [int(text.replace(",", "")) for text in re.findall(r"([\d,]+) bytes", said)]
    each, needed, free = sizes
    short = plan_chain("tiny/stage1", words)[0].folder
    learns = sum(count["trainable"] for count in short.read_json("parameters.json").values())
    assert each == 16 * learns  # weights, two moments, average
    assert needed == 3 * each > free  # two, and a new one before the oldest goes
