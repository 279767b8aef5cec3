"""Member processes from a fork server that has the heavy imports loaded, a few at a time.

The fork server lives as long as the pool, so that edited code is seen by the next sweep. A member
that dies without a word (out of memory, kill -9) is noticed by its sentinel; the others go on.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import connection, forkserver
from multiprocessing.context import ForkServerProcess
from types import ModuleType, TracebackType
from typing import Any

from qk_lightning.sweeps.worker import Job, Surroundings, thread_variables, work

PRELOAD = "qk_lightning.sweeps.preload"
GRACE_SECONDS = 20.0


@dataclass(frozen=True)
class Event:
    """Something that a member process told, or that its end told.

    Args:
        key: the job's key.
        kind: `progress`, `done` or `failed`.
        data: a dict of the run's progress, the job's result, or the error as text.
    """

    key: str
    kind: str
    data: Any


@dataclass
class _Member:
    process: ForkServerProcess
    receiver: connection.Connection


class Pool:
    """Runs jobs in processes of their own; a context manager.

    Args:
        slots: most processes at the same time.
        threads: threads of each.
        preload: module that the fork server imports before its first member.
    """

    def __init__(self, slots: int = 2, threads: int = 1, preload: str = PRELOAD) -> None:
        self.slots = slots
        self.threads = threads
        self.preload = preload
        self._members: dict[str, _Member] = {}
        self._context = multiprocessing.get_context("forkserver")
        self._serving = False

    def __enter__(self) -> Pool:
        """Begin; the fork server starts with the first job."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop what still runs, and the fork server."""
        self.stop()
        if self._serving:
            _stop_fork_server()

    def _serve(self) -> None:
        """Start a fork server of our own: one that stands has older code and variables."""
        _stop_fork_server()
        self._context.set_forkserver_preload([self.preload])
        # OpenMP reads its variable when torch is imported, which the fork server does; and it
        # finds modules by its own path, not by ours.
        variables = {**thread_variables(self.threads), "PYTHONPATH": os.pathsep.join(sys.path)}
        with _environment(variables), _no_main():
            forkserver.ensure_running()
        self._serving = True

    @property
    def free(self) -> int:
        """Number of free slots."""
        return self.slots - len(self._members)

    @property
    def running(self) -> list[str]:
        """Keys of the jobs that run now."""
        return list(self._members)

    def pid(self, key: str) -> int:
        """Return the process id of a running job.

        Args:
            key: the job's key.
        """
        pid = self._members[key].process.pid
        assert pid is not None
        return pid

    def submit(self, job: Job) -> None:
        """Start a job now.

        Args:
            job: what to do; a slot must be free.
        """
        assert self.free > 0, "submit() needs a free slot"
        if not self._serving:
            self._serve()
        receiver, sender = self._context.Pipe(duplex=False)
        surroundings = Surroundings(dict(os.environ), os.getcwd(), self.threads)
        process = self._context.Process(
            target=work, args=(job, sender, surroundings), name=job.key, daemon=False
        )
        with _no_main():
            process.start()
        sender.close()
        self._members[job.key] = _Member(process, receiver)

    def events(self, timeout: float = 1.0) -> Iterator[Event]:
        """Wait for news of the running jobs.

        Args:
            timeout: longest wait, in seconds.

        Yields:
            What happened; a job that ended has left its slot by then.
        """
        waiting = [member.receiver for member in self._members.values()]
        if not waiting:
            return
        # A pipe is ready when something was sent and when its process is gone.
        ready = connection.wait(waiting, timeout)
        for key, member in list(self._members.items()):
            if member.receiver in ready:
                yield from self._read(key, member)

    def _read(self, key: str, member: _Member) -> Iterator[Event]:
        try:
            kind, data = member.receiver.recv()
        except (EOFError, ConnectionResetError):
            member.process.join()
            del self._members[key]
            yield Event(key, "failed", _cause_of_death(member.process.exitcode))
            return
        if kind != "progress":
            member.process.join(GRACE_SECONDS)
            if member.process.is_alive():  # a thread of some library keeps it from ending
                member.process.kill()
                member.process.join()
            del self._members[key]
        yield Event(key, kind, data)

    def stop(self, grace_seconds: float = GRACE_SECONDS) -> None:
        """End all running jobs: SIGTERM first, and SIGKILL for what has not ended in time.

        A run that trains ends its step and keeps it.

        Args:
            grace_seconds: how long they may take; a further Ctrl-C cuts it short.
        """
        for member in self._members.values():
            member.process.terminate()
        deadline = time.monotonic() + grace_seconds
        try:
            for member in self._members.values():
                member.process.join(max(0.0, deadline - time.monotonic()))
        finally:
            for member in self._members.values():
                if member.process.is_alive():
                    member.process.kill()
                    member.process.join()
                member.receiver.close()
            self._members.clear()


def _cause_of_death(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        name = signal.Signals(-exit_code).name
        hint = " (out of memory?)" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{hint}"
    return f"its process ended with exit code {exit_code} and no word"


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
def _no_main() -> Iterator[None]:
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


def _stop_fork_server() -> None:
    # Python has no public way to end it before its parent ends. Killed, it need not first finish
    # its imports; its members have ended by then.
    server: Any = forkserver._forkserver
    if server._forkserver_pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(server._forkserver_pid, signal.SIGKILL)
    server._stop()
