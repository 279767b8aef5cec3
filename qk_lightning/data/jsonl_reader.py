"""Reading and checking a jsonl of samples: every mistake of the file at once, each with its line.

Here: lines to records, image files to hashes. Not here: pixels, splits, layouts (worlds/jsonl.py).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qk_lightning.config.errors import ConfigError, Problem, did_you_mean
from qk_lightning.config.paths import is_file
from qk_lightning.data.pictures import what_is_wrong
from qk_lightning.data.sample import ROLES, TASKS, Roles

LISTED = 20  # problems told in full; the rest are counted
KEYS = ("id", "prompt", "target", "images", "task", "facts")
MIN_IMAGES = {  # task: at least so many sources and references
    "reconstruction": (1, 0),
    "transformation": (1, 0),
    "editing": (1, 0),
    "customised": (0, 1),
    "multi_subject": (0, 2),
}
EXAMPLE = '{"prompt": "a red cat", "target": "cat.png"}'


@dataclass(frozen=True)
class Line:
    """One line of the file, checked; images are positions in `Records.files`."""

    id: str
    task: str
    prompt: str
    images: tuple[int, ...]
    roles: Roles
    target: int
    facts: dict[str, Any]


@dataclass
class Records:
    """All lines, the image files that they name (each once) and a hash over all contents."""

    lines: list[Line] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    digest: str = ""


def read_records(path: Path) -> Records:
    """Reads a jsonl and looks at every image it names.

    Args:
        path: The file; image paths in it are relative to its folder.

    Returns:
        The records.

    Raises:
        ConfigError: With all that is wrong in the file (20 problems in full, the rest counted).
    """
    return _Reader(path).read()


class _Reader:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: list[Problem] = []
        self.rows: dict[Path, tuple[int, int]] = {}  # file: (row, number of its first line)
        self.ids: dict[str, int] = {}
        self.number = 0

    def read(self) -> Records:
        """Return the records of the right lines; the wrong ones are gathered as problems."""
        content, records = self.path.read_bytes(), Records()
        for self.number, raw in enumerate(content.splitlines(), start=1):
            if raw.strip() and (line := self._line(raw)) is not None:
                records.lines.append(line)
        records.files = list(self.rows)
        digest = hashlib.sha256(content)
        for file in records.files:
            digest.update(self._look_at(file))
        if not records.lines and not self.problems:
            self._wrong("", None, "at least one line", f"for example {EXAMPLE}")
        self._raise()
        records.digest = digest.hexdigest()
        return records

    def _wrong(self, key: str, value: object, expected: str, fix: str, number: int = 0) -> None:
        where = f"{self.path}:{number or self.number}" + (f": {key}" if key else "")
        self.problems.append(Problem(where, value, expected, fix))

    def _raise(self) -> None:
        if not self.problems:
            return
        listed, rest = self.problems[:LISTED], len(self.problems) - LISTED
        if rest > 0:
            listed.append(Problem(f"and {rest} more", None, "each to be right", "mend these first"))
        raise ConfigError(listed)

    def _line(self, raw: bytes) -> Line | None:
        known = len(self.problems)
        try:
            entry = json.loads(raw)
        except (ValueError, RecursionError) as error:
            self._wrong("", raw[:60].decode(errors="replace"), f"JSON ({error})", EXAMPLE)
            return None
        if not isinstance(entry, dict):
            self._wrong("", entry, "a JSON object", EXAMPLE)
            return None
        for key in entry.keys() - set(KEYS):
            fix = f'{did_you_mean(key, KEYS)} Your own data belong into "facts"'
            self._wrong(key, entry[key], "a known key", fix)
        prompt = self._get(entry, "prompt", str, 'write "prompt": "" where there is none')
        target = self._get(entry, "target", str, "the path of the image to be made")
        facts = self._get(entry, "facts", dict, 'for example {"colour": "red"}', default={})
        images, roles = self._images(entry)
        task = self._task(entry, roles)
        row = self._row(target) if "target" in entry else 0
        name = self._id(entry, str(target))
        if len(self.problems) > known:
            return None
        return Line(name, task, prompt, images, roles, row, facts)

    def _get(
        self, entry: dict[str, Any], key: str, kind: type, fix: str, default: Any = ...
    ) -> Any:
        value = entry.get(key, default)
        if value is ...:
            self._wrong(key, None, "this key, it is missing", fix)
        elif not isinstance(value, kind):
            self._wrong(key, value, f"a {kind.__name__}", fix)
        else:
            return value
        return kind()

    def _images(self, entry: dict[str, Any]) -> tuple[tuple[int, ...], Roles]:
        shape = '{"path": "cat.png", "role": "source"}'
        found: list[tuple[int, str]] = []
        for image in self._get(entry, "images", list, f"a list such as [{shape}]", default=[]):
            if not isinstance(image, dict) or not isinstance(image.get("path"), str):
                self._wrong("images", image, "an object with path and role", shape)
            elif image.get("role") not in ROLES:
                fix = did_you_mean(str(image.get("role")), ROLES)
                self._wrong("images.role", image.get("role"), f"one of {ROLES}", fix)
            elif extra := image.keys() - {"path", "role"}:
                self._wrong("images", sorted(extra), "path and role alone", shape)
            else:
                found.append((self._row(image["path"]), image["role"]))
        rows, roles = tuple(row for row, _ in found), tuple(role for _, role in found)
        if roles.count("source") > 1:
            fix = 'make the others references: "role": "reference"'
            self._wrong("images.role", roles, "at most one source", fix)
        return rows, roles

    def _task(self, entry: dict[str, Any], roles: Roles) -> str:
        default = "editing" if "source" in roles else "customised" if roles else "text_to_image"
        task = entry.get("task", default)
        if task not in TASKS:
            self._wrong("task", task, "a known task", did_you_mean(str(task), TASKS))
            return default
        sources, references = MIN_IMAGES.get(task, (0, 0))
        if roles.count("source") < sources or roles.count("reference") < references:
            expected = f"images of at least {sources} source and {references} reference"
            self._wrong("task", task, expected, f'list them in "images"; roles now: {roles}')
        if task == "text_to_image" and roles:
            self._wrong("task", task, "no images with it", 'drop "images", or the "task"')
        return task

    def _id(self, entry: dict[str, Any], target: str) -> str:
        if "id" in entry:
            name = self._get(entry, "id", str, "a text, unique in the file")
            if name in self.ids:
                self._wrong("id", name, f"a unique id (line {self.ids[name]} has it)", "rename it")
        else:  # from the content, so that inserting a line leaves the others' splits alone
            content = json.dumps(entry, sort_keys=True).encode()
            stem = f"{Path(target).stem}-{hashlib.sha256(content).hexdigest()[:8]}"
            name, copy = stem, 1
            while name in self.ids:
                copy += 1
                name = f"{stem}-{copy}"
        self.ids[name] = self.number
        return name

    def _row(self, text: str) -> int:
        file = self.path.parent / text
        return self.rows.setdefault(file, (len(self.rows), self.number))[0]

    def _look_at(self, file: Path) -> bytes:
        """Hashes an image file's content, and checks that it is an image."""
        first_line = self.rows[file][1]
        if not is_file(file):
            fix = f"paths are relative to {self.path.parent}"
            self._wrong("image", str(file)[:200], "an existing file", fix, first_line)
            return b""
        content = file.read_bytes()
        if reason := what_is_wrong(content):
            expected = f"an image that can be read ({reason})"
            self._wrong("image", str(file), expected, "save it again as PNG or JPEG", first_line)
        return hashlib.sha256(content).digest()
