"""Where things are: the root, its output folder `runs/`, presets, and small weights.

The root is `$QK_ROOT`, else the nearest parent folder with `experiments/`, else the current
folder. Presets are looked for in the root's `experiments/`, then in the installed package.
"""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path

from qk_lightning.config.errors import ConfigError, Problem, did_you_mean

BUILTIN = "builtin:"


def project_root() -> Path:
    """Return the folder that outputs and a user's own presets belong to."""
    if given := os.environ.get("QK_ROOT"):
        return Path(given).expanduser().resolve()
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "experiments").is_dir():
            return folder
    return here


def runs_root() -> Path:
    """Return the folder of all outputs: run folders, sweeps, caches and the MLflow store."""
    return project_root() / "runs"


def cache_root() -> Path:
    """Return the folder of what can be computed again: rendered worlds, latents."""
    return runs_root() / "cache"


def sweeps_root() -> Path:
    """Return the folder that holds one folder a sweep."""
    return runs_root() / "sweeps"


def package_root() -> Path:
    """Return the folder of the installed package."""
    return Path(str(resources.files("qk_lightning")))


def preset_roots() -> list[Path]:
    """Return the folders that hold presets, the user's own first."""
    package = package_root()
    found = [
        project_root() / "experiments",
        package / "experiments",  # an installed wheel
        package.parent / "experiments",  # a checkout or an editable install
    ]
    unique = list(dict.fromkeys(path.resolve() for path in found if path.is_dir()))
    return unique


def list_presets() -> list[str]:
    """Return the names of all YAML files that `find_preset` finds."""
    names = {
        path.relative_to(root).with_suffix("").as_posix()
        for root in preset_roots()
        for path in root.rglob("*.yaml")
    }
    return sorted(names)


def find_preset(name: str | Path, near: Path | None = None) -> Path:
    """Find the file of a preset, a part's options or a sweep.

    Args:
        name: `laptop/stage1`, with or without `.yaml`, or a path to a file.
        near: a file whose folder is searched first (for `defaults:` of a user's own file).

    Returns:
        The file.

    Raises:
        ConfigError: nothing of that name is found.
    """
    text = str(name)
    file_name = text if text.endswith((".yaml", ".yml")) else f"{text}.yaml"
    stripped = file_name.removeprefix("experiments/")
    candidates = [Path(file_name).expanduser()]
    if near is not None:
        candidates.append(near.parent / file_name)
    candidates += [root / stripped for root in preset_roots()]
    for candidate in candidates:
        if candidate.is_file():
            return candidate.resolve()
    known = list_presets()
    raise ConfigError(Problem("preset", text, "a YAML file", did_you_mean(text, known)))


def resolve_path(text: str, key: str = "path") -> Path:
    """Turn a path of the configuration into an existing one.

    Args:
        text: `builtin:<name>` (weights that come with the package), an absolute path, or one
            relative to the root, else to the current folder.
        key: the configuration key, for the error.

    Returns:
        The existing file or folder.

    Raises:
        ConfigError: nothing is there.
    """
    if text.startswith(BUILTIN):
        weights = package_root() / "weights"
        path = weights / text.removeprefix(BUILTIN)
        known = [f"{BUILTIN}{folder.name}" for folder in weights.glob("*") if folder.is_dir()]
        fix = did_you_mean(text, known)
    else:
        path = Path(text).expanduser()
        if not path.is_absolute():
            here = Path.cwd() / path
            path = project_root() / path
            path = here if here.exists() and not path.exists() else path
        fix = "give an absolute path, or one relative to the project's root or to this folder"
    if not path.exists():
        raise ConfigError(Problem(key, text, f"an existing path (looked at {path})", fix))
    return path


def is_local(text: str) -> bool:
    """Tell a path of this machine from the id of a model on a hub.

    Args:
        text: a value of an option that takes either.

    Returns:
        True for `builtin:` names, for paths that begin with `.`, `/` or `~`, and for whatever
        exists under the root.
    """
    if text.startswith((BUILTIN, "/", ".", "~")):
        return True
    return (project_root() / text).exists()
