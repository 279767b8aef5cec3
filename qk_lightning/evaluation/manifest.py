"""The manifest of drawn pictures: for each, how it was drawn and a digest of its file.

A line a picture in manifest.jsonl, appended as pictures are written: a drawing that was stopped
goes on where it was. A file that is no longer the one that was drawn is never scored silently.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qk_lightning.config.errors import ConfigError, Problem

MANIFEST = "manifest.jsonl"
IMAGES = "images"


@dataclass(frozen=True)
class Drawn:
    """One line of the manifest.

    Args:
        id: the item.
        sample: the number of the picture among those of the item.
        path: the file, relative to the manifest.
        sha256: digest of the file.
        width: pixels.
        height: pixels.
        seed: of the noise.
        num_inference_steps: steps of the sampler; None where unknown.
        guidance_scale: weight of the prompt; None where unknown.
        run: name of the run that drew it.
        identity: the run's identity.
        asked: digest of what was asked for, see `Item.digest`.
        time: when, in ISO 8601.
    """

    id: str
    sample: int
    path: str
    sha256: str
    width: int
    height: int
    seed: int
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    run: str = ""
    identity: str = ""
    asked: str = ""
    time: str = ""

    def fits(self, settings: dict[str, Any]) -> bool:
        """Tell whether it was drawn with the same settings.

        Args:
            settings: values by field name.
        """
        return all(getattr(self, name) == value for name, value in settings.items())


def image_path(item: str, sample: int) -> str:
    """Return where a picture goes, relative to the manifest.

    Args:
        item: the item's id.
        sample: its number.
    """
    return f"{IMAGES}/{item}/{sample:04d}.png"


def file_digest(path: Path) -> str:
    """Return a file's sha256, "" where there is no file.

    Args:
        path: the file.
    """
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def read_manifest(folder: Path) -> dict[tuple[str, int], Drawn]:
    """Read a manifest; of two lines on one picture the later one counts.

    Args:
        folder: the folder that holds manifest.jsonl.

    Returns:
        Lines by (item, sample), {} where there is no manifest.

    Raises:
        ConfigError: a line is not one of a manifest's.
    """
    file = folder / MANIFEST
    if not file.is_file():
        return {}
    text = file.read_text(encoding="utf-8")
    found = {}
    for line in text[: text.rfind("\n") + 1].splitlines():  # a kill may cut the last one short
        try:
            drawn = Drawn(**json.loads(line))
        except (ValueError, TypeError) as error:
            expected = f"a line as `qk evaluate` writes it ({error})"
            fix = "give the file another name: pictures are also found as <id>.png"
            raise ConfigError(Problem(str(file), line[:60], expected, fix)) from error
        found[drawn.id, drawn.sample] = drawn
    return found


def append_manifest(folder: Path, rows: Iterable[Drawn]) -> None:
    """Add lines to a manifest.

    Args:
        folder: the folder that holds manifest.jsonl.
        rows: the lines.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / MANIFEST
    if file.is_file():
        text = file.read_text(encoding="utf-8")
        if text and not text.endswith("\n"):
            file.write_text(text[: text.rfind("\n") + 1], encoding="utf-8")
    with file.open("a", encoding="utf-8") as handle:
        handle.writelines(json.dumps(asdict(row)) + "\n" for row in rows)
