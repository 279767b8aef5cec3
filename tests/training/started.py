"""Real commands in processes of their own, the ranks that they start, and what is left of them.

`qk` and its ranks are forked from the test, which has imported all they need: a start takes two
seconds and not half a minute. With $REAL_STARTS they are what a terminal starts.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import torch

from qk_lightning.cli.main import main
from qk_lightning.config.run_folder import RunFolder
from qk_lightning.sweeps import fork_server, pool

PATIENCE = 600.0
REAL = bool(os.environ.get("REAL_STARTS"))
QK = [sys.executable, "-m", "qk_lightning"]
VERBS = ("fit", "sweep")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]


class Started:
    """A command that runs: `qk`, forked from here so that it imports nothing, or another program.

    Args:
        words: the words after `qk`, or a program's whole command line.
        log: takes what it prints.
    """

    def __init__(self, words: list[str], log: Path) -> None:
        self.log = log
        self.code: int | None = None
        self.family: set[int] = set()
        with log.open("a") as out:
            if words[0] in VERBS and not REAL:
                self.pid = os.fork()
                if not self.pid:
                    _become_qk(words, out.fileno())
                return
            words = [*QK, *words] if words[0] in VERBS else words
            options = {"stdout": out, "stderr": out, "start_new_session": True}
            self.pid = subprocess.Popen(words, **options).pid

    @property
    def said(self) -> str:
        """What it has printed."""
        return self.log.read_text(errors="replace")

    def is_over(self) -> bool:
        """Tell whether it has ended; then `code` is its exit code."""
        if self.code is None:
            self.family |= descendants(self.pid)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code is not None

    def wait(self, seconds: float = PATIENCE) -> int:
        """Return its exit code."""
        until(self.is_over, seconds, "the end of the command", lambda: self.said)
        assert self.code is not None
        return self.code

    def left(self) -> list[str]:
        """Return the processes that it started and that still live."""
        return [line for pid in self.family if (line := _command(pid))]

    def end(self) -> None:
        """Kill it and all that it started."""
        self.is_over()
        for pid in {self.pid, *self.family} if self.code is None else self.family:
            if _command(pid):
                os.kill(pid, signal.SIGKILL)
        if self.code is None:
            os.waitpid(self.pid, 0)


@contextmanager
def started(words: list[str], log: Path) -> Iterator[Started]:
    """Start a command; nothing of it is left after the `with` block."""
    command = Started(words, log)
    try:
        yield command
    finally:
        command.end()


def until(
    is_so: Callable[[], object],
    seconds: float = PATIENCE,
    what: str = "",
    said: Callable[[], str] = str,
) -> None:
    """Wait until something is so; the test fails where it takes too long."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, f"no {what} in {seconds} s\n{said()[-4000:]}"
        time.sleep(0.02)


def _become_qk(words: list[str], out: int) -> None:
    code = 70
    try:
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for stream in (1, 2):
            os.dup2(out, stream)
        sys.stdout = os.fdopen(1, "w", 1, closefd=False)
        sys.stderr = os.fdopen(2, "w", 1, closefd=False)
        torch.set_num_threads(1)
        _fork_members()
        code = main(words)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)


def _fork_members() -> None:
    """Let pools fork their members from this process."""
    fork = multiprocessing.get_context("fork")
    pool.multiprocessing = SimpleNamespace(get_context=lambda _: fork)
    fork_server.start = lambda *_: None


def descendants(pid: int) -> set[int]:
    """Return all processes below one."""
    found: set[int] = set()
    with contextlib.suppress(OSError):  # it may end while it is looked at
        for file in Path(f"/proc/{pid}/task").glob("*/children"):
            children = {int(word) for word in file.read_text().split()}
            for child in children - found:
                found |= {child} | descendants(child)
    return found


def ranks_of(run: RunFolder, command: Started) -> list[int]:
    """Return the process ids of a run's ranks, in their order."""
    by_torchrun = [(env["RANK"], pid) for pid in descendants(command.pid) if (env := _environ(pid))]
    if by_torchrun:
        return [pid for _, pid in sorted(by_torchrun)]
    logs = sorted((run.path / "ranks").glob("*/log.txt"))
    return [int(log.read_text().rpartition(" process ")[2].split()[0]) for log in logs]


def _environ(pid: int) -> dict[str, str]:
    try:
        text = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
    except OSError:
        return {}
    found = dict(item.partition("=")[::2] for item in text.split("\0") if "=" in item)
    return found if "RANK" in found else {}


def _command(pid: int) -> str:
    """Return a living process's command line, "" where it has ended."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return ""
    return "" if state in "ZX" else f"{pid} {' '.join(words)}"


def last_step(run: RunFolder) -> int:
    """Return the last step whose loss is in metrics.csv."""
    return max((r["step"] for r in run.metrics() if r["metric"] == "train/loss"), default=0)
