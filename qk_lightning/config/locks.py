"""A lock on a folder that survives crashes: host, process id and a heartbeat in one file.

A second process waits. The lock of a dead process on this host is freed at once; that of
another host when its heartbeat has stopped for a minute, by the clock of the file system: the
hosts' own clocks may differ by more.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import socket
import threading
import time
from functools import cache
from pathlib import Path
from uuid import uuid4

from qk_lightning.config.errors import ConfigError, Problem

HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 60.0
PATIENCE_SECONDS = 2.0
DAMAGED = {"host": "", "pid": "0", "token": ""}  # who holds a lock that we did not write
log = logging.getLogger("qk_lightning")


class LockHeld(RuntimeError):  # noqa: N818 - it names a state, and reads so where it is caught
    """Another live process holds the lock and waiting was not wanted."""


class FolderLock:
    """Hold `<folder>/.lock` for the length of a `with` block.

    Args:
        folder: the folder to guard; made if it is missing.
        wait: wait for the holder (True) or raise `LockHeld` (False).
        poll_seconds: how often a waiting process looks again.
    """

    def __init__(self, folder: Path, wait: bool = True, poll_seconds: float = 0.2) -> None:
        self.path = Path(folder) / ".lock"
        self.wait = wait
        self.poll_seconds = poll_seconds
        self._token = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"
        self._stop = threading.Event()

    def __enter__(self) -> FolderLock:
        """Take the lock.

        Raises:
            LockHeld: with `wait=False`, when a live process holds it.
            ConfigError: a folder stands where the lock goes.
        """
        if self.path.is_dir():
            fix = f"nothing of `qk` makes one: rm -r {self.path}"
            raise ConfigError(Problem(str(self.path), None, "a file, not a folder", fix))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        while not self._take():
            holder = self.holder()
            if began and time.monotonic() - began > PATIENCE_SECONDS and holder:
                began = 0.0
                log.warning("waiting: %s", self._who(holder))
            if holder is not None and _is_dead(holder, self.path):
                self._free_dead(holder)
            elif not self.wait:
                raise LockHeld(self._who(holder))
            else:
                time.sleep(self.poll_seconds)
        threading.Thread(target=self._beat, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        """Give the lock back."""
        self._stop.set()
        holder = self.holder()
        if holder is not None and holder["token"] == self._token:
            self.path.unlink(missing_ok=True)

    @property
    def is_held(self) -> bool:
        """Tell whether a live process holds the lock."""
        holder = self.holder()
        return holder is not None and not _is_dead(holder, self.path)

    def holder(self) -> dict[str, str] | None:
        """Return who holds the lock (host, pid, token), or None when nobody does."""
        try:
            content = json.loads(self.path.read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            return dict(DAMAGED)
        return content if _is_whole(content) else dict(DAMAGED)

    def _who(self, holder: dict[str, str] | None) -> str:
        folder = self.path.parent
        if holder == DAMAGED:
            free = f"a minute after it was written it is free, or: rm {self.path}"
            return f"the lock of {folder} is damaged; {free}"
        who = f"process {holder['pid']} of {holder['host']}" if holder else "another process"
        return f"{who} uses {folder}"

    def _take(self) -> bool:
        # Linking a finished file is atomic on local and on network file systems, and nobody
        # can ever read a lock that is only half written.
        draft = self.path.with_name(f".lock.{uuid4().hex[:8]}")
        host, pid, _ = self._token.rsplit(":", 2)
        entry = {"host": host, "pid": pid, "token": self._token, "born": _born(pid),
                 "space": _space()}  # fmt: skip
        draft.write_text(json.dumps(entry))
        try:
            os.link(draft, self.path)
        except FileExistsError:
            return False
        finally:
            draft.unlink()
        return True

    def _free_dead(self, dead: dict[str, str]) -> None:
        # Of several waiting processes one at a time may look and remove: without the guard a
        # second one could remove the lock that the first has just taken.
        with self.path.with_name(".lock.guard").open("a") as guard:
            fcntl.flock(guard, fcntl.LOCK_EX)
            holder = self.holder()
            if holder is not None and holder["token"] == dead["token"]:
                self.path.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            holder = self.holder()
            if holder is None or holder["token"] != self._token:
                return  # freed while this process was asleep: it is another's now
            with contextlib.suppress(OSError):  # a network file system that is away for a while
                os.utime(self.path)


def _is_whole(content: object) -> bool:
    """Tell whether a lock's content is what `_take` writes."""
    if not isinstance(content, dict):
        return False
    values = [content.get(key) for key in DAMAGED]
    pid = str(content.get("pid"))
    return all(isinstance(value, str) for value in values) and pid.isdecimal() and len(pid) < 10


def _age(path: Path) -> float:
    """Return how long ago a lock's heart beat, in seconds, by the clock of its file system.

    A file that is written now says what time it is there. The lock is opened to be seen as it is:
    a network file system may keep older attributes.
    """
    with path.open() as lock:
        beat = os.fstat(lock.fileno()).st_mtime
    probe = path.with_name(f".lock.{uuid4().hex[:8]}")
    try:
        probe.touch()
        return probe.stat().st_mtime - beat
    except OSError:  # write-protected: this machine's clock will do
        return time.time() - beat
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)


def _is_dead(holder: dict[str, str], path: Path) -> bool:
    space = _space()
    is_here = holder["host"] == socket.gethostname() and holder.get("space", space) == space
    if not is_here or holder["pid"] == "0":
        try:
            return _age(path) > STALE_SECONDS
        except OSError:  # it is gone, or the file system is away
            return False
    try:
        os.kill(int(holder["pid"]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    # The same number may by now be another process.
    return bool(holder.get("born")) and holder["born"] != _born(holder["pid"])


@cache
def _space() -> str:
    """Return what tells apart machines, and containers, of one name: their processes' numbers."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _born(pid: str) -> str:
    """Return when a process started, "" where the system does not tell."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
