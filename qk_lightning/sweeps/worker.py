"""What happens inside a member process: one job, its messages, its log, its end.

A job names its function as "module:function", so that the process that starts it imports
nothing. The process ends when the one that started it dies, however that died.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing import connection, parent_process
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qk_lightning.config.atomic import write_text
from qk_lightning.config.run_folder import RunFolder
from qk_lightning.config.stop_signals import STOP_SIGNALS, TRY_AGAIN, exit_code
from qk_lightning.sweeps.devices import Needs

if TYPE_CHECKING:
    from qk_lightning.training.callbacks import Report

ORPHANED = TRY_AGAIN
LOG_FILE = "log.txt"
ERROR_FILE = "error.txt"


@dataclass(frozen=True)
class Job:
    """One function call in a process of its own.

    Args:
        key: names the job in the pool's events.
        target: the function, as "module:function".
        arguments: its arguments, small and picklable.
        folder: where its output goes (`log.txt`), and its traceback if it fails (`error.txt`).
        reports: pass a `report` function as the last argument.
        needs: GPUs and cores that it occupies.
    """

    key: str
    target: str
    arguments: tuple[Any, ...]
    folder: Path
    reports: bool = False
    needs: Needs = field(default_factory=Needs)


@dataclass(frozen=True)
class Surroundings:
    """What a member process takes over from the one that started it.

    The fork server's own environment is older than that of the process that asks for a job.

    Args:
        environment: all environment variables.
        folder: the working directory.
        threads: threads of torch and OpenMP.
        cores: cores that it is bound to; none: those of the one that started it.
    """

    environment: dict[str, str]
    folder: str
    threads: int
    cores: tuple[int, ...] = ()


def work(job: Job, sender: connection.Connection, surroundings: Surroundings) -> None:
    """Do one job in this process and tell its outcome through a pipe.

    Args:
        job: what to do.
        sender: takes ("progress", dict), then ("done", result) or ("failed", error).
        surroundings: environment, folder and threads to work in.
    """
    _settle(job, surroundings)

    def report(message: dict[str, Any]) -> None:
        """Pass progress on to the process that waits."""
        sender.send(("progress", message))

    try:
        function = load_target(job.target)
        result = function(*job.arguments, *((report,) if job.reports else ()))
    except KeyboardInterrupt:  # the parent stopped it between two steps
        sys.exit(exit_code())
    except Exception as error:
        sender.send(("failed", f"{type(error).__name__}: {first_line(error)}"))
        traceback.print_exc()
        with contextlib.suppress(OSError):  # the disk may be what has failed
            write_text(job.folder / ERROR_FILE, traceback.format_exc())
        sys.exit(1)
    sender.send(("done", result))


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message that says something.

    Args:
        error: the error. A count such as "2 problems:" is skipped for the line after it.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].endswith(("problem:", "problems:")):
        return lines[1].removeprefix("- ")
    return lines[0] if lines else "(no message)"


def load_target(target: str) -> Callable[..., Any]:
    """Import a function named "module:function".

    Args:
        target: its name.

    Returns:
        The function.
    """
    module, _, function = target.partition(":")
    loaded: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return loaded


def run_once(folder: str, target: str, report: Report | None = None) -> bool:
    """Train one run folder unless it is done, holding its lock meanwhile.

    Another process may hold the lock: then its run is waited for, and not done again.

    Args:
        folder: a run folder whose `config.yaml` is written.
        target: "module:function" that trains it, called with the folder and `report`.
        report: receives the run's progress.

    Returns:
        True when this process trained it, False when it was done by then.

    Raises:
        RuntimeError: the function came back and the run is not marked as done.
    """
    run = RunFolder(Path(folder))
    with run.lock(wait=True):
        if run.is_done:
            return False
        (run.path / ERROR_FILE).unlink(missing_ok=True)
        load_target(target)(folder, report)
        if not RunFolder(run.path).is_done:
            raise RuntimeError(f"{target} came back before {run.name} was done")
    return True


def _settle(job: Job, surroundings: Surroundings) -> None:
    """Prepare this process: signals, watchdog, environment, threads, log."""
    # Ctrl-C, or a closed terminal, reaches all its processes; the parent decides what to stop.
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)  # as the fork server has them
    threading.Thread(target=_die_with_parent, name="watch-parent", daemon=True).start()
    os.environ.clear()
    os.environ.update(surroundings.environment)
    os.environ.update(thread_variables(surroundings.threads))
    os.chdir(surroundings.folder)
    if surroundings.cores:
        os.sched_setaffinity(0, surroundings.cores)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(surroundings.threads)
    _write_output_to(job.folder / LOG_FILE)
    faulthandler.enable()  # where it was when it crashed stands in its log


def thread_variables(threads: int) -> dict[str, str]:
    """Return the environment variables that bound the threads of numerical libraries.

    Args:
        threads: threads a process.
    """
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
    return {**dict.fromkeys(names, str(threads)), "TOKENIZERS_PARALLELISM": "false"}


def _die_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(ORPHANED)


def _write_output_to(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.close(log)
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115 - open to the end
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    print(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} process {os.getpid()}")
