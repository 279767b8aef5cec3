"""Writing files so that a reader never meets half of one: write aside, flush, then rename."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from qk_lightning.config.disk_space import DiskFull, remove, room_for


@contextmanager
def aside(path: Path, needed: int = 0) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success it takes `path`'s place.

    The temporary name keeps the suffix (libraries choose formats by it). On an error it is
    removed and whatever stood at `path` before is untouched.

    Args:
        path: the file or folder to be made.
        needed: its bytes, for the message where they do not fit; 0 where nobody knows.

    Yields:
        The path to write to.

    Raises:
        DiskFull: there is no room for it.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{uuid4().hex[:8]}.part{path.suffix}")
    try:
        with room_for(path, needed, temporary):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            if temporary.is_file():
                with temporary.open("rb") as handle:
                    os.fsync(handle.fileno())
            elif path.is_dir():
                shutil.rmtree(path)
            temporary.replace(path)
    finally:
        remove(temporary)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all.

    Args:
        path: the file.
        text: its new content.
    """
    with aside(path, len(text.encode())) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object, or_in_place: bool = False) -> None:
    """Write a JSON file whole or not at all.

    Args:
        path: the file.
        value: what `json` can write.
        or_in_place: on a full disk, or in a folder that has become write-protected, write over
            the file that is there: its block is ours.

    Raises:
        DiskFull: there is no room for it.
    """
    text = json.dumps(value, indent=2, sort_keys=False) + "\n"
    try:
        write_text(path, text)
    except (DiskFull, PermissionError):
        if not (or_in_place and _write_over(Path(path), text.encode())):
            raise


def _write_over(path: Path, content: bytes) -> bool:
    """Write in one go over what a file has; False where that is more than its blocks hold."""
    if not path.is_file():
        return False
    there = path.stat()
    has_room = len(content) <= max(there.st_size, there.st_blocks * 512)
    if not (has_room and os.access(path, os.W_OK)):
        return False
    with path.open("r+b") as handle:
        handle.write(content.ljust(there.st_size, b"\n"))
        handle.flush()
        os.fsync(handle.fileno())
    return True
