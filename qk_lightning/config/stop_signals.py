"""Which signal asked a command to stop, and the exit code that says so. No torch.

130: a person (Ctrl-C, a closed terminal). 75, EX_TEMPFAIL: a scheduler; the same command goes on.
SLURM requeues a preempted job itself after SIGTERM, and must not after `scancel`, which sends the
same; the warning of `sbatch --signal=USR1@120` before the time limit is nobody's but ours.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED = 130
TRY_AGAIN = 75
WARNINGS = (signal.SIGUSR1, signal.SIGUSR2)  # SLURM's, before a job's time is over
BY_SCHEDULER = (signal.SIGTERM, *WARNINGS)
STOP_SIGNALS = (signal.SIGINT, signal.SIGHUP, *BY_SCHEDULER)
REQUEUE_SECONDS = 30.0
_last: list[int] = []


def forget() -> None:
    """Begin a command: nothing has asked it to stop."""
    _last.clear()


def remember(number: int) -> None:
    """Note the signal that asked this process to stop.

    Args:
        number: the signal.
    """
    _last.append(int(number))


def exit_code() -> int:
    """Return what a command that was stopped ends with: 75 after a scheduler's signal, or 130."""
    return TRY_AGAIN if set(_last) & set(BY_SCHEDULER) else INTERRUPTED


def requeue() -> str:
    """Put this process's SLURM job back into the queue, if SLURM has warned of its end.

    Returns:
        What came of it, "" where there was no warning, no job, or another rank does it.
    """
    job = os.environ.get("SLURM_JOB_ID", "")
    is_first = os.environ.get("SLURM_PROCID", "0") == os.environ.get("RANK", "0") == "0"
    if not (set(_last) & set(WARNINGS) and job and is_first):
        return ""
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
        job = f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID', '0')}"
    by_hand = f"put it back by hand: scontrol requeue {job}"
    if (scontrol := shutil.which("scontrol")) is None:
        return f"there is no scontrol on PATH, so job {job} is not requeued; {by_hand}"
    words = [scontrol, "requeue", job]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=REQUEUE_SECONDS)
    except subprocess.TimeoutExpired:
        return f"scontrol did not answer, so job {job} may not be requeued; {by_hand}"
    if done.returncode:
        return f"scontrol refused to requeue job {job}: {done.stderr.strip()}"
    return f"job {job} is requeued"


def stop(number: int, frame: FrameType | None) -> None:
    """Stop as Ctrl-C does; a signal handler.

    Args:
        number: the signal.
        frame: not used.

    Raises:
        KeyboardInterrupt: always.
    """
    remember(number)
    raise KeyboardInterrupt


@contextmanager
def as_ctrl_c() -> Iterator[None]:
    """Let schedulers' signals, where they would end this process at once, stop it as Ctrl-C does.

    Signals that are ignored (`nohup`) or handled by a host program stay so.
    """
    is_main = threading.current_thread() is threading.main_thread()  # only there are signals set
    numbers = [n for n in STOP_SIGNALS if is_main and signal.getsignal(n) == signal.SIG_DFL]
    try:
        for number in numbers:
            signal.signal(number, stop)
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)
