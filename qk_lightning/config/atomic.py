"""Writing files so that a reader never meets half of one: write aside, flush, then rename."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


@contextmanager
def aside(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success it takes `path`'s place.

    The temporary name keeps the suffix (libraries choose formats by it). On an error it is
    removed and whatever stood at `path` before is untouched.

    Args:
        path: the file or folder to be made.

    Yields:
        The path to write to.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{uuid4().hex[:8]}.part{path.suffix}")
    try:
        yield temporary
        if temporary.is_file():
            with temporary.open("rb") as handle:
                os.fsync(handle.fileno())
        elif path.is_dir():
            shutil.rmtree(path)
        temporary.replace(path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all.

    Args:
        path: the file.
        text: its new content.
    """
    with aside(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    """Write a JSON file whole or not at all.

    Args:
        path: the file.
        value: what `json` can write.
    """
    write_text(path, json.dumps(value, indent=2, sort_keys=False) + "\n")
