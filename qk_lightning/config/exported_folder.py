"""An exported folder: all parts of a finished run, to be loaded anywhere without the run.

<folder>/
model_index.json  run.yaml  README.md  samples.png
vlm/  autoencoder/  head/  queries/  connector/  <part>_lora/ (a LoRA that was kept apart)
A part without weights, such as an objective, has no folder; `run.yaml` says all of it.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from qk_lightning.config.errors import ConfigError, Problem
from qk_lightning.config.identity import LENGTH, fingerprint
from qk_lightning.config.run_folder import RunFolder, read_config
from qk_lightning.config.schema import PART_FAMILIES

INDEX, RUN_CONFIG, CARD, GRID = "model_index.json", "run.yaml", "README.md", "samples.png"
CLASS_NAME = "QueryKontextPipeline"
FORMAT = 1  # of model_index.json
LORA = "_lora"  # behind a part's name: the folder of its LoRA
ENTRY = {"name": str, "class": str, "weights": bool, "lora": bool}
MAKE = "make one: qk export RUN FOLDER"
AGAIN = "bring it back, or write the folder again: qk export RUN FOLDER --force"


class ExportedFolder(RunFolder):
    """A folder that `qk export` or `save_pretrained` wrote; it stands where a finished run can.

    Args:
        path: the folder.

    Raises:
        ConfigError: it is none, or a damaged or newer one.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(Path(path).resolve())
        self.index = _read_index(self.path)
        for family in self.parts:
            for folder in self._folders(family):
                if not folder.is_dir():
                    expected = f"the folder of its {family}"
                    raise ConfigError(Problem(str(folder), None, expected, AGAIN))

    @property
    def parts(self) -> dict[str, dict[str, Any]]:
        """By family: the part's `name` and `class`; has it `weights`, has it a `lora` apart."""
        found: dict[str, dict[str, Any]] = self.index["parts"]
        return found

    @property
    def identity(self) -> str:
        """A hash of what the parts' folders hold, whatever the folder is called."""
        held = [
            [family, entry["name"], *(fingerprint(folder) for folder in self._folders(family))]
            for family, entry in sorted(self.parts.items())
        ]
        return hashlib.sha256(json.dumps(held).encode()).hexdigest()[:LENGTH]

    @property
    def origin(self) -> str:
        """The name of the run that it was made from, "" where it is not known."""
        return str(self.index.get("run") or "")

    @property
    def chain(self) -> list[dict[str, str]]:
        """The runs behind it, first ancestor first: `run`, `stage` and `identity` of each."""
        return list(self.index.get("chain") or [])

    @property
    def has_config(self) -> bool:
        """Whether there is a configuration."""
        return (self.path / RUN_CONFIG).is_file()

    @property
    def recorded_config(self) -> DictConfig:
        """The run's configuration as it was trained: its paths are those of that time."""
        return read_config(self.path / RUN_CONFIG, AGAIN)

    @property
    def config(self) -> DictConfig:
        """The run's configuration; a part that came from a path comes from this folder."""
        cfg = self.recorded_config
        for family, entry in self.parts.items():
            if entry["weights"] and cfg[family].get("path") is not None:
                cfg[family].path = str(self.path / family)
        return cfg

    @property
    def state(self) -> str:
        """Always `exported`."""
        return "exported"

    @property
    def is_done(self) -> bool:
        """Always: only what has ended is exported."""
        return True

    def entries(self) -> list[dict[str, Any]]:
        """Return what makes the parts, as weights.json would list it."""
        seed = self.recorded_config.seed
        listed: list[dict[str, Any]] = []
        for family, entry in self.parts.items():
            if not entry["weights"]:
                listed.append({"part": family, "action": "init", "seed": seed})
            for action, folder in zip(("load", "merge_lora"), self._folders(family), strict=False):
                where = {"file": str(folder), "sha256": fingerprint(folder)}
                listed.append({"part": family, "action": action, **where})
        return listed

    def _folders(self, family: str) -> list[Path]:
        """The folders of a part: its weights', then its LoRA's."""
        entry = self.parts[family]
        names = [family] if entry["weights"] else []
        return [self.path / name for name in [*names, *[f"{family}{LORA}"] * entry["lora"]]]


def open_folder(path: Path) -> RunFolder | None:
    """Open a run's folder or an exported one.

    Args:
        path: any path.

    Returns:
        It, None where it is neither.
    """
    if (path / "config.yaml").is_file():
        return RunFolder(path.resolve())
    return ExportedFolder(path) if is_exported(path) else None


def is_exported(path: Path) -> bool:
    """Tell whether a folder is one that was exported here; diffusers' own have an index too.

    Args:
        path: any path.
    """
    try:
        index = json.loads((path / INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(index, dict) and index.get("_class_name") == CLASS_NAME


def own_names(index: dict[str, Any]) -> set[str]:
    """List the names that an exported folder may hold; whatever else lies there is somebody's.

    Args:
        index: what its model_index.json says.
    """
    families = index.get("parts") or {}
    folders = {name for family in families for name in (family, f"{family}{LORA}")}
    return {INDEX, RUN_CONFIG, CARD, GRID, "evaluations", *folders}


def _read_index(folder: Path) -> dict[str, Any]:
    """Read and check model_index.json.

    Raises:
        ConfigError: it is missing, another library's, damaged or of a newer version.
    """
    reason, fix = "", MAKE
    index: object = None
    if not folder.is_dir():
        reason = "there is no such folder"
    elif not (folder / INDEX).is_file():
        is_run = (folder / "config.yaml").is_file()
        reason = "it is a run's, for from_run" if is_run else f"it has no {INDEX}"
    else:
        try:
            index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
            reason, fix = _what_is_wrong(index)
        except ValueError as error:
            reason, fix = f"{INDEX} is damaged: {error}", AGAIN
    if reason or not isinstance(index, dict):
        raise ConfigError(Problem("folder", str(folder), f"an exported folder ({reason})", fix))
    return index


def _what_is_wrong(index: object) -> tuple[str, str]:
    """Say why an index cannot be used, and the fix; "" where it can."""
    damaged = (f"{INDEX} is damaged", AGAIN)
    if not isinstance(index, dict):
        return damaged
    if (name := index.get("_class_name")) != CLASS_NAME:
        return f"{INDEX} names a {name}", f"{MAKE}; `path:` of a part reads parts of others"
    version, parts = index.get("format"), index.get("parts")
    if not isinstance(version, int) or not isinstance(parts, dict):
        return damaged
    if version > FORMAT:
        return f"format {version}, this version reads {FORMAT}", "update qk_lightning"
    is_whole = all(
        family in PART_FAMILIES
        and isinstance(entry, dict)
        and all(isinstance(entry.get(key), kind) for key, kind in ENTRY.items())
        for family, entry in parts.items()
    )
    return ("", "") if is_whole else damaged
