"""The fork server of a pool: ours alone, deaf to signals, and gone when the pool is.

Python's own lives as long as the program, with the code and the variables of its start.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker
from types import ModuleType
from typing import Any

from qk_lightning.config.stop_signals import STOP_SIGNALS
from qk_lightning.sweeps.worker import thread_variables


def start(threads: int, preload: str) -> None:
    """Start a fork server of our own: one that stands has older code and variables.

    Args:
        threads: threads of each member.
        preload: module that it imports first.
    """
    stop()
    forkserver.set_forkserver_preload([preload])
    # OpenMP reads its variable when torch is imported, which the fork server does; and it
    # finds modules by its own path, not by ours.
    variables = {**thread_variables(threads), "PYTHONPATH": os.pathsep.join(sys.path)}
    resource_tracker.ensure_running()  # starting it would unblock the signals
    with _environment(variables), no_main(), _blocked():
        forkserver.ensure_running()


def stop() -> None:
    """End it, if it runs."""
    # Python has no public way to end it before its parent ends. Killed, it need not first finish
    # its imports; its members have ended by then.
    server: Any = forkserver._forkserver
    if server._forkserver_pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(server._forkserver_pid, signal.SIGKILL)
    server._stop()


@contextmanager
def _blocked() -> Iterator[None]:
    """Block the signals that stop a command: a process that starts now never gets them.

    A scheduler sends SIGTERM to all processes. Without the fork server nobody hears how a member
    ends, and it is taken for dead while it keeps its step.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Set environment variables for the length of a `with` block."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def no_main() -> Iterator[None]:
    """Hide the main module for the length of a `with` block.

    A member would run it again: a script without `if __name__ == "__main__"` would start itself
    anew in each. A job names its function by module, so nothing of it is needed.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
