"""What is said where a disk has no room: the file, the bytes that it takes, the bytes there are."""

from __future__ import annotations

import errno
import logging
import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from qk_lightning.config.paths import check_folder

FOLDERS = ("checkpoints", "weights", "samples", "ranks")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
PROBE = b"\0" * (1 << 16)
log = logging.getLogger("qk_lightning")


class DiskFull(OSError):  # noqa: N818 - it names a state, and reads so where it is caught
    """A file does not fit; `errno` says whether the disk, a quota or a size limit is reached."""


@contextmanager
def room_for(path: Path, needed: int = 0, temporary: Path | None = None) -> Iterator[None]:
    """Say what is missing, and where, if a file cannot be written for want of room or rights.

    Libraries name no file, or say no more than that writing failed.

    Args:
        path: the file that is written, for the message.
        needed: its bytes; 0 where nobody knows.
        temporary: where they are written before they are named; removed when there is no room.

    Yields:
        Nothing.

    Raises:
        DiskFull: there was no room.
        PermissionError: it may not be written.
    """
    written = temporary or path
    try:
        yield
    except DiskFull:
        raise
    except Exception as error:
        if (number := _refused(error, temporary)) is None:
            raise
        done = _size(written)
        if temporary is not None:
            remove(temporary)
        if number in DENIED:
            raise OSError(number, os.strerror(number), str(path)) from error
        raise DiskFull(number, _sentence(number, path, needed, done), str(path)) from error


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there.

    Args:
        path: what goes.
    """
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def check_writable(run: Path) -> None:
    """See, before anything is loaded, that a run's folder can be written to if it is there.

    Args:
        run: the run's folder.

    Raises:
        ConfigError: it, or a folder in it, is write-protected.
    """
    for folder in (run, *(run / name for name in FOLDERS)):
        if folder.is_dir():
            check_folder("run folder", folder)


def free_bytes(path: Path) -> int:
    """Return the bytes that this user can still write where a file is to stand.

    Args:
        path: the file; it and its folders may be missing yet.
    """
    existing = next(one for one in (path, *path.absolute().parents) if one.exists())
    return shutil.disk_usage(existing).free


def warn_if_short(folder: Path, needed: int, what: str) -> None:
    """Warn where a disk has less room than will be needed.

    Args:
        folder: where it will be written.
        needed: bytes.
        what: names it.
    """
    free = free_bytes(folder)
    if free < needed:
        fix = "free some, or the run stops at a checkpoint (it goes on from the one before)"
        sizes = f"{_said(needed)}; {folder} has {_said(free)} free"
        log.warning("%s take up to %s: %s", what, sizes, fix)


def _refused(error: Exception, temporary: Path | None) -> int | None:
    """Return the number of the error if room or rights were what was missing."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno if error.errno in (*FULL, *DENIED) else None
    if f"os error {errno.ENOSPC}" in str(error):
        return errno.ENOSPC
    is_folder = temporary is not None and temporary.is_dir()
    return None if temporary is None or is_folder else _probe(temporary)


def _probe(file: Path) -> int | None:
    """Ask the disk itself, as torch says nothing: is there room for a little more?"""
    try:
        with file.open("ab") as handle:
            handle.write(PROBE)
            handle.flush()
            os.fsync(handle.fileno())
    except OSError as error:
        return error.errno if error.errno in (*FULL, *DENIED) else None
    return None


def _sentence(number: int, path: Path, needed: int, done: int) -> str:
    takes = f"takes {_said(needed)}" if needed else f"takes more than the {_said(done)} written"
    if number == errno.EFBIG:
        limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
        return f"{os.strerror(number)} (it {takes}, the limit `ulimit -f` is {_said(limit)})"
    with suppress(OSError):
        return f"{os.strerror(number)} (it {takes}, {_said(free_bytes(path))} are free)"
    return f"{os.strerror(number)} (it {takes})"


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _said(count: int) -> str:
    return f"{count:,} bytes"
