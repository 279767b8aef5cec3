"""Runs on other machines: what every engine has in common, on both sides.

Over there a keeper starts the run in a process of its own, as a pool does here, so that a crash is
the run's and not the engine's. Machines share the folder of runs: status.json there tells how far a
run is, its lock keeps a second one away, and a file asks keepers to stop.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from qk_lightning.config.paths import project_root
from qk_lightning.config.run_folder import RunFolder
from qk_lightning.sweeps.devices import Needs
from qk_lightning.sweeps.pool import STOP_SECONDS, Event, Pool
from qk_lightning.sweeps.worker import Job

TAKEN_OVER = ("QK_", "MLFLOW_", "HF_")  # variables that runs elsewhere have as they are here
POLL_SECONDS = 0.25
STATUS_SECONDS = 2.0
STOPPED = ("stopped", "it was asked to stop")


@dataclass
class Keeper:
    """Does one job in a process of the machine that this is called on.

    Args:
        job: what to do.
        threads: threads of the process.
        preload: module that is imported first.
        stop_file: asks it to stop once it is there.
        variables: environment variables to set.
        folder: the working directory.
        pool: holds the process while it runs.
    """

    job: Job
    threads: int
    preload: str
    stop_file: Path
    variables: dict[str, str] = field(default_factory=lambda: taken_over())
    folder: str = field(default_factory=os.getcwd)
    pool: Pool | None = None

    def __call__(self) -> tuple[str, Any]:
        """Do the job.

        Returns:
            How it ended, as an event's kind and data: `done`, `failed` or `stopped`.
        """
        os.environ.update(self.variables)
        with contextlib.suppress(OSError):  # not every folder is shared
            os.chdir(self.folder)
        with Pool(1, self.threads, self.preload) as self.pool:
            self.pool.submit(self.job)
            try:
                return self._follow(self.pool)
            finally:
                self.pool = None

    def _follow(self, pool: Pool) -> tuple[str, Any]:
        asked = False
        while pool.running:
            for event in pool.events(timeout=POLL_SECONDS):
                if event.kind != "progress":
                    return event.kind, event.data
            if not asked and self.stop_file.exists():
                asked = True
                pool.terminate()
        return STOPPED


def taken_over() -> dict[str, str]:
    """Return the environment variables that a run elsewhere has as they are here."""
    found = {name: value for name, value in os.environ.items() if name.startswith(TAKEN_OVER)}
    return {**found, "QK_ROOT": str(project_root().resolve())}


class RemotePool(ABC):
    """Jobs that an engine runs somewhere else; used as a `Pool` is.

    Args:
        slots: most jobs that are handed to the engine at the same time; 0 for no bound.
        threads: threads of each.
        preload: module that each imports first.
        folder: shared folder for the file that stops all.
    """

    def __init__(self, slots: int, threads: int, preload: str, folder: Path) -> None:
        self.slots = slots
        self.threads = threads
        self.preload = preload
        name = f".stop-{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}"
        self.stop_file = folder / name
        self._jobs: dict[str, tuple[Job, Any]] = {}
        self._told: dict[str, dict[str, Any]] = {}
        self._looked = 0.0

    def __enter__(self) -> RemotePool:
        """Begin."""
        return self

    def __exit__(self, *error: object) -> None:
        """Stop what still runs."""
        self.stop()

    @property
    def running(self) -> list[str]:
        """Keys of the jobs that the engine has."""
        return list(self._jobs)

    def has_room(self, needs: Needs) -> bool:
        """Tell whether a job more is handed to the engine.

        Args:
            needs: what it would occupy.
        """
        return not self.slots or len(self._jobs) < self.slots

    def submit(self, job: Job) -> None:
        """Hand a job to the engine.

        Args:
            job: what to do.
        """
        keeper = Keeper(job, self.threads, self.preload, self.stop_file)
        self._jobs[job.key] = job, self._start(keeper)

    def events(self, timeout: float = 1.0) -> Iterator[Event]:
        """Wait for news of the jobs.

        Args:
            timeout: longest wait, in seconds.

        Yields:
            What happened; `lost` for a job whose machine or worker is gone.
        """
        deadline = time.monotonic() + timeout
        ended: list[Event] = []
        while not ended and self._jobs and time.monotonic() < deadline:
            for key, (_, handle) in list(self._jobs.items()):
                if (fate := self._fate(handle)) is not None:
                    del self._jobs[key]
                    ended.append(Event(key, *fate))
            if not ended:
                time.sleep(POLL_SECONDS)
        yield from ended
        if time.monotonic() - self._looked > STATUS_SECONDS:
            self._looked = time.monotonic()
            yield from self._progress()

    def _progress(self) -> Iterator[Event]:
        for key, (job, handle) in list(self._jobs.items()):
            status = RunFolder(job.folder).status
            known: dict[str, Any] = {
                name: status[name] for name in ("step", "max_steps") if name in status
            }
            told = {**known, "phase": self._phase(handle)}
            if self._told.get(key) != told:
                self._told[key] = told
                yield Event(key, "progress", told)

    def stop(self, grace_seconds: float = STOP_SECONDS) -> None:
        """End all jobs: each run ends its step and keeps it; those that wait never begin.

        Args:
            grace_seconds: how long they may take before they are cancelled.
        """
        if not self._jobs:
            return
        try:
            self.stop_file.parent.mkdir(parents=True, exist_ok=True)
            self.stop_file.touch()
            deadline = time.monotonic() + grace_seconds
            while self._jobs and time.monotonic() < deadline:
                for key, (_, handle) in list(self._jobs.items()):
                    if self._is_waiting(handle):
                        self._cancel(handle)
                    if self._fate(handle) is not None:
                        del self._jobs[key]
                time.sleep(POLL_SECONDS)
        finally:
            for _, handle in self._jobs.values():
                self._cancel(handle)
            self._jobs.clear()
            self.stop_file.unlink(missing_ok=True)

    @abstractmethod
    def check(self, needs: Needs) -> None:
        """See that the engine can ever give so much to a run.

        Raises:
            ConfigError: it cannot.
        """

    @abstractmethod
    def _start(self, keeper: Keeper) -> Any:
        """Hand a keeper to the engine; return what names it there."""

    @abstractmethod
    def _fate(self, handle: Any) -> tuple[str, Any] | None:
        """Return how a job ended, None while it has not."""

    @abstractmethod
    def _is_waiting(self, handle: Any) -> bool:
        """Tell whether a job has not begun."""

    @abstractmethod
    def _phase(self, handle: Any) -> str:
        """Return what the engine says of a job that has not ended, for people."""

    @abstractmethod
    def _cancel(self, handle: Any) -> None:
        """End a job at once."""
