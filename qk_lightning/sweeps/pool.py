"""Member processes from a fork server that has the heavy imports loaded, a few at a time.

The fork server lives as long as the pool, so that edited code is seen by the next sweep. A member
that dies without a word (out of memory, kill -9) is noticed by its sentinel; the others go on.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.context import ForkServerProcess
from types import TracebackType
from typing import Any

from qk_lightning.config.stop_signals import INTERRUPTED, TRY_AGAIN
from qk_lightning.sweeps import fork_server
from qk_lightning.sweeps.devices import Devices, Needs, Share
from qk_lightning.sweeps.worker import Job, Surroundings, work

PRELOAD = "qk_lightning.sweeps.preload"
GRACE_SECONDS = 20.0
STOP_SECONDS = 600.0  # for the running step and its checkpoint; who cannot wait signals again
STOPPED = (INTERRUPTED, TRY_AGAIN, -signal.SIGTERM)  # exit codes


@dataclass(frozen=True)
class Event:
    """Something that a member process told, or that its end told.

    Args:
        key: the job's key.
        kind: `progress`, `done`, `failed`, `stopped` for one that was asked to stop, or, from an
            engine on other machines, `lost`: its worker is gone.
        data: a dict of the run's progress, the job's result, or the error as text.
    """

    key: str
    kind: str
    data: Any


@dataclass
class _Member:
    process: ForkServerProcess
    receiver: connection.Connection
    share: Share


class Pool:
    """Runs jobs in processes of their own; a context manager.

    Args:
        slots: most processes at the same time.
        threads: threads of each.
        preload: module that the fork server imports before its first member.
        devices: GPUs and cores to give out; None for none, whatever a job needs.
    """

    def __init__(
        self,
        slots: int = 2,
        threads: int = 1,
        preload: str = PRELOAD,
        devices: Devices | None = None,
    ) -> None:
        self.devices = devices
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
        """Stop what still runs, and the fork server; at once where Ctrl-C comes through."""
        at_once = kind is not None and issubclass(kind, KeyboardInterrupt)
        try:
            self.stop(0.0 if at_once else GRACE_SECONDS)
        finally:
            if self._serving:
                fork_server.stop()

    @property
    def free(self) -> int:
        """Number of free slots."""
        return self.slots - len(self._members)

    def has_room(self, needs: Needs) -> bool:
        """Tell whether a job can start now.

        Args:
            needs: what it would occupy.
        """
        return self.free > 0 and (self.devices is None or self.devices.has(needs))

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
            self._serving = True
            fork_server.start(self.threads, self.preload)
        receiver, sender = self._context.Pipe(duplex=False)
        share = self.devices.take(job.needs) if self.devices else Share()
        variables = {**os.environ, **share.variables}
        surroundings = Surroundings(variables, os.getcwd(), self.threads, share.cores)
        process = self._context.Process(
            target=work, args=(job, sender, surroundings), name=job.key, daemon=False
        )
        with fork_server.no_main():
            try:
                process.start()
            except (EOFError, ConnectionError):  # the server was killed
                fork_server.start(self.threads, self.preload)
                process.start()
        sender.close()
        self._members[job.key] = _Member(process, receiver, share)

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
            self._end(key)
            code = member.process.exitcode
            yield Event(key, "stopped" if code in STOPPED else "failed", _cause_of_death(code))
            return
        if kind != "progress":
            member.process.join(GRACE_SECONDS)
            if member.process.is_alive():  # a thread of some library keeps it from ending
                member.process.kill()
                member.process.join()
            self._end(key)
        yield Event(key, kind, data)

    def _end(self, key: str) -> None:
        member = self._members.pop(key)
        if self.devices:
            self.devices.give_back(member.share)

    def terminate(self) -> None:
        """Ask all running jobs to stop: a run that trains ends its step and keeps it."""
        for member in self._members.values():
            member.process.terminate()

    def stop(self, grace_seconds: float = STOP_SECONDS) -> None:
        """End all running jobs: SIGTERM first, and SIGKILL for what has not ended in time.

        Args:
            grace_seconds: how long they may take; a further Ctrl-C cuts it short.
        """
        try:
            self.terminate()
            deadline = time.monotonic() + grace_seconds
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
    if exit_code is not None and exit_code < 0 and -exit_code in list(signal.Signals):
        name = signal.Signals(-exit_code).name
        hint = " (out of memory?)" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{hint}"
    if exit_code in STOPPED:
        return f"it was stopped from outside, with exit code {exit_code}"
    return f"its process ended with exit code {exit_code} and no word"
