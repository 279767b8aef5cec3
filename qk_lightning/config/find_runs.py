"""Finding run folders: all of them, one by what a user typed, those that need another."""

from __future__ import annotations

from pathlib import Path

from qk_lightning.config.errors import ConfigError, Problem, did_you_mean
from qk_lightning.config.exported_folder import ExportedFolder, is_exported, open_folder
from qk_lightning.config.paths import runs_root, user_path
from qk_lightning.config.run_folder import RunFolder

MAX_LISTED = 8


def list_runs(root: Path | None = None) -> list[RunFolder]:
    """List the run folders, oldest first.

    Args:
        root: the folder that holds them; by default the project's `runs/`.
    """
    root = root or runs_root()
    folders = [RunFolder(file.parent) for file in root.glob("*/config.yaml")]
    folders = [folder for folder in folders if not folder.name.startswith(".")]
    return sorted(folders, key=lambda folder: (folder.path / "config.yaml").stat().st_mtime)


def find_run(text: str) -> RunFolder:
    """Find a run by path, by folder name, or by the beginning of either name or identity.

    An exported folder is found by its path.

    Args:
        text: what the user typed.

    Returns:
        The run's folder.

    Raises:
        ConfigError: no run, or more than one, fits.
    """
    if not text.strip():  # the path of "" is the current folder, and every name begins with it
        raise ConfigError(Problem("run", text, "a run's name or folder", "qk runs lists them"))
    path = user_path(text, "run")
    if (path / "config.yaml").is_file():
        among = path.parent.resolve() / path.name  # a link among the runs stays one
        is_among = bool(path.name) and among.parent == runs_root().resolve()
        return RunFolder(among if is_among else path.resolve())
    if is_exported(path):
        return ExportedFolder(path)
    runs = list_runs()
    exact = [run for run in runs if text in (run.name, run.identity)]
    near = [run for run in runs if run.name.startswith(text) or run.identity.startswith(text)]
    found = exact or near
    if len(found) == 1:
        return found[0]
    names = [run.name for run in (found or runs)]
    if found:
        fix = "name one of them: " + ", ".join(names[:MAX_LISTED])
        fix += "; all: qk runs list" if len(names) > MAX_LISTED else ""
        raise ConfigError(Problem("run", text, f"one run, found {len(found)}", fix))
    if path.is_dir():
        expected = "a run's folder (config.yaml), or an exported one (model_index.json)"
        fix = "qk runs lists the runs; qk export writes such a folder"
        raise ConfigError(Problem("run", text, expected, fix))
    meant = did_you_mean(text, names)
    fix = meant if len(names) <= MAX_LISTED or meant.startswith("did") else "all: qk runs list"
    fix = fix if names else "train one first: qk fit laptop/stage1"
    raise ConfigError(Problem("run", text, f"a run folder under {runs_root()}", fix))


def children_of(run: RunFolder) -> list[RunFolder]:
    """List the runs whose weights need those of another.

    Args:
        run: the possible ancestor.

    Returns:
        Runs that name it as their parent or in their weights.json.
    """
    needing = []
    for other in list_runs(run.path.parent):
        if other.path == run.path:
            continue
        recorded = other.read_json("parent.json")
        parent = None if "chain" in recorded else recorded.get("folder")  # of an exported folder
        entries = other.read_json("weights.json").get("entries", [])
        files = [str(entry.get("file", "")) for entry in entries]
        if parent == run.name or any(run.name in Path(file).parts for file in files):
            needing.append(other)
    return needing


def parent_of(run: RunFolder) -> RunFolder | None:
    """Return the folder that a run continues.

    Args:
        run: a run that was planned.

    Returns:
        A run's folder or an exported one, which may have gone; None for a first stage.
    """
    recorded = run.read_json("parent.json")
    if not recorded:
        return None
    path, identity = Path(recorded["path"]), recorded.get("identity")
    beside = RunFolder(run.path.parent / recorded["folder"])
    if beside.has_config and beside.identity == identity:
        return beside
    return open_folder(path) or RunFolder(path)
