"""What a malformed input is: a command over broken files, and what a kind answer says."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

# Locks guard a folder while it is looked at; an empty guard file is all that may stay.
PASSING = (".lock", ".lock.guard")


@dataclass(frozen=True)
class Case:
    """One wrong step and its answer.

    Args:
        name: what is wrong; the test's id.
        words: the command; `ROOT` stands for the project's root.
        says: what the answer must hold: the key, file or flag at fault, and the fix.
        files: text or bytes by path under the root, written first.
        prepare: makes what is more than a file; called with the root.
        new: beginnings of paths that may appear; all else must stay as it was.
    """

    name: str
    words: str | tuple[str, ...]
    says: tuple[str, ...]
    files: Mapping[str, str | bytes] = field(default_factory=dict)
    prepare: Callable[[Path], object] | None = None
    new: tuple[str, ...] = ()

    def write(self, root: Path) -> None:
        """Put the broken files under the root."""
        for name, content in self.files.items():
            file = root / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content if isinstance(content, bytes) else content.encode())
        if self.prepare is not None:
            self.prepare(root)

    def command(self, root: Path) -> list[str]:
        """The words after `qk`."""
        words = self.words.split() if isinstance(self.words, str) else self.words
        return [word.replace("ROOT", str(root)) for word in words]

    def may_write(self, name: str) -> bool:
        """Tell whether a path under the root may appear: one of `new`, or a folder above it."""
        return any(name.startswith(one) or one.startswith(f"{name}/") for one in self.new)


def tree(root: Path) -> dict[str, str]:
    """A digest of every file, "" for a folder, by path under the root."""
    found = {}
    for path in sorted(root.rglob("*")):
        if path.name not in PASSING:
            content = path.read_bytes() if path.is_file() else None
            digest = "" if content is None else hashlib.sha256(content).hexdigest()
            found[path.relative_to(root).as_posix()] = digest
    return found
