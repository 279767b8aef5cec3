"""Where things are: the root, its output folder `runs/`, presets, and small weights.

The root is `$QK_ROOT`, else the nearest parent folder with `experiments/`, else the current
folder. Presets are looked for in the root's `experiments/`, then in the installed package.
"""

from __future__ import annotations

import errno
import os
from importlib import resources
from pathlib import Path

from qk_lightning.config.errors import ConfigError, Problem, did_you_mean

NOT_THERE = "an existing path"  # what is expected where an input is missing
BUILTIN = "builtin:"


def project_root() -> Path:
    """Return the folder that outputs and a user's own presets belong to."""
    if given := os.environ.get("QK_ROOT"):
        return _given_root(given)
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "experiments").is_dir():
            return folder
    return here


def _given_root(text: str) -> Path:
    root = user_path(text, "QK_ROOT").resolve()
    existing = next(path for path in (root, *root.parents) if path.exists())
    if not text.strip() or not existing.is_dir():
        fix = "export QK_ROOT=<a folder of yours>, or unset it"
        raise ConfigError(Problem("QK_ROOT", text, "a folder, or one that can be made", fix))
    return root


def user_path(text: str | Path, key: str = "path") -> Path:
    """Turn what a user typed into a path: `~` is a home folder.

    Args:
        text: a path, which may be missing.
        key: what names it, for the error.

    Raises:
        ConfigError: there is no such user, or no file can have such a name.
    """
    try:
        path = Path(text).expanduser()
        path.exists()  # False for what is missing, an OSError for what can never be there
    except RuntimeError as error:  # expanduser's way to say that it knows no such user
        fix = "write the whole path, or ./~... for a name that begins so"
        raise ConfigError(Problem(key, str(text), f"a known user ({error})", fix)) from error
    except (OSError, ValueError) as error:
        if getattr(error, "errno", errno.ENAMETOOLONG) != errno.ENAMETOOLONG:
            raise
        shown = f"{str(text)[:60]}..." if len(str(text)) > 60 else str(text)
        expected = "a path of names up to 255 bytes, without null characters"
        raise ConfigError(Problem(key, shown, expected, "choose a shorter name")) from error
    return path


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
    candidates = [user_path(file_name, "preset")]
    if near is not None:
        candidates.append(near.parent / file_name)
    candidates += [root / stripped for root in preset_roots()]
    for candidate in candidates:
        if candidate.is_file():
            return candidate.resolve()
    known = list_presets()
    raise ConfigError(Problem("preset", text, "a YAML file", did_you_mean(text, known)))


def is_file(path: Path) -> bool:
    """Tell whether a file is there; a text that no path can be, such as a whole picture, is none.

    Args:
        path: what a user's data names.
    """
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long a name, a null character
        return False


def check_folder(key: str, folder: Path) -> None:
    """See that files can be written to a folder, which may be missing yet, before work begins.

    Args:
        key: the option that names it, for the error.
        folder: the folder.

    Raises:
        ConfigError: it, or what it would stand in, is a file or write-protected.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        expected = f"a folder ({existing} is a file)"
        raise ConfigError(Problem(key, str(folder), expected, "name another, or move the file"))
    if not os.access(existing, os.W_OK | os.X_OK):
        expected = f"a folder that can be written to ({existing} is write-protected)"
        fix = "name another, or give yourself the right: chmod u+w"
        raise ConfigError(Problem(key, str(folder), expected, fix))


def check_output(key: str, file: Path) -> None:
    """See that a file can be written, before work begins.

    Args:
        key: the option that names it, for the error.
        file: the file, which may be missing yet.

    Raises:
        ConfigError: it is a folder, or its folder cannot be written to.
    """
    if file.is_dir():
        fix = f"name a file in it, such as {file / 'output'}{file.suffix or '.png'}"
        raise ConfigError(Problem(key, str(file), "a file, not a folder", fix))
    check_folder(key, file.absolute().parent)


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
        fix = "" if path.exists() else did_you_mean(text, known)
    else:
        path = user_path(text, key)
        if not path.is_absolute():
            here = Path.cwd() / path
            path = project_root() / path
            path = here if here.exists() and not path.exists() else path
        fix = "give an absolute path, or one relative to the project's root or to this folder"
    if not path.exists():
        raise ConfigError(Problem(key, text, f"{NOT_THERE} (looked at {path})", fix))
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


def list_suites() -> list[str]:
    """Return the names of the suites of `qk evaluate`, by their files; nothing is imported."""
    folder = Path(__file__).parents[1] / "evaluation" / "suites"
    return sorted(file.stem for file in folder.glob("[!_]*.py"))
