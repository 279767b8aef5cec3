"""Making the MLflow view anew from the run folders, which are the truth.

What the store shows already stays as it is; what is missing is added; an MLflow run that
contradicts its folder goes to MLflow's trash and is made anew. Imports no Lightning.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from qk_lightning.config.find_runs import list_runs
from qk_lightning.config.locks import FolderLock, LockHeld
from qk_lightning.config.paths import sweeps_root
from qk_lightning.config.run_folder import RunFolder
from qk_lightning.tracking.mlflow_describe import describe_run
from qk_lightning.tracking.mlflow_files import find_or_make_run, log_run_files
from qk_lightning.tracking.mlflow_history import milliseconds
from qk_lightning.tracking.mlflow_missed import forget_missed
from qk_lightning.tracking.mlflow_runs import log_sweep, sweep_record
from qk_lightning.tracking.mlflow_store import (
    MAX_METRICS,
    RECORD,
    check_store,
    ensure_store,
    make_client,
    standing_run,
    store_file,
    store_folder,
)
from qk_lightning.tracking.rebuild_compare import Difference, compare, status_of, truth_of

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

Action = Literal["make", "complete", "make anew", "keep", "leave"]


@dataclass(frozen=True)
class Deed:
    """What was done with one run or sweep, or would be.

    Args:
        name: the run's folder, or `sweep <name>`.
        action: `make` (the store did not show it), `complete` (it lacked something), `make anew`
            (it contradicted the folder), `keep` (nothing to do), `leave` (not to be shown).
        why: the reason, "" where it is plain.
    """

    name: str
    action: Action
    why: str = ""


class Deeds:
    """Keeps deeds, and tells each one once it is done.

    Args:
        said: takes each deed.
    """

    def __init__(self, said: Callable[[Deed], None] | None) -> None:
        self.done: list[Deed] = []
        self._said = said

    def add(self, deed: Deed) -> None:
        """Keep a deed that is done, and tell it.

        Args:
            deed: what was done.
        """
        self.done.append(deed)
        if self._said is not None:
            self._said(deed)


def rebuild(dry_run: bool = False, said: Callable[[Deed], None] | None = None) -> list[Deed]:
    """Show every finished run and every sweep in MLflow, as their folders tell.

    A second call finds nothing to do. Of a run that is not finished only its end is shown: one
    that was killed stands as running until then.

    Args:
        dry_run: only say what would be done; the store is not even made.
        said: takes each deed once it is done.

    Returns:
        All deeds: the runs' first, then the sweeps'.

    Raises:
        ConfigError: MLflow is not installed, or the store's address is one it refuses.
    """
    check_store()
    file = store_file()
    is_new = file is not None and not file.is_file()
    runs = list_runs()
    has_something = not dry_run and any(run.is_done and is_tracked(run) for run in runs)
    client = None if is_new and not has_something else open_client()
    deeds = Deeds(said)
    for run in runs:
        deeds.add(_rebuild_run(client, run, dry_run))
    changed = {deed.name for deed in deeds.done if deed.action in ("make", "make anew")}
    for result_file in sorted(sweeps_root().glob("*/result.json")):
        deeds.add(rebuild_sweep(client, result_file.parent, changed, dry_run))
    return deeds.done


def open_client() -> MlflowClient:
    """Return a client; its constructor makes a sqlite file, which two must not do together."""
    folder = store_folder()
    if folder is None:
        return make_client()
    with FolderLock(folder):
        return make_client()


def _rebuild_run(client: MlflowClient | None, run: RunFolder, dry_run: bool) -> Deed:
    if not run.is_done:
        return _end_killed(client, run, dry_run)
    if not is_tracked(run):
        return Deed(run.name, "leave", "tracking.name is none")
    if dry_run:
        return deed_of(client, run)
    try:
        with run.lock(wait=False):
            deed = deed_of(client, run)
            assert client is not None
            show(client, run, deed.action)
            forget_missed(run)
    except LockHeld:
        return Deed(run.name, "leave", "in use by another process")
    return deed


def _end_killed(client: MlflowClient | None, run: RunFolder, dry_run: bool) -> Deed:
    """Say in MLflow that a run was killed: by itself it shows as running for ever."""
    state = run.state
    run_id = standing_run(client, run.read_json(RECORD)) if client else None
    if client is None or run_id is None or state == "running":
        return Deed(run.name, "leave", f"{state}, not done")
    if client.get_run(run_id).info.status != "RUNNING":
        return Deed(run.name, "leave", f"{state}, not done")
    if not dry_run:
        client.set_terminated(run_id, "FAILED" if state == "failed" else "KILLED")
    return Deed(run.name, "complete", f"{state}, but MLflow had it running")


def deed_of(client: MlflowClient | None, run: RunFolder) -> Deed:
    """Say what a run needs.

    Args:
        client: a client of the store; None where there is no store yet.
        run: a run that does not train now.
    """
    run_id = standing_run(client, run.read_json(RECORD)) if client else None
    if client is None or run_id is None:
        return Deed(run.name, "make")
    found = compare(client, run_id, run)
    if found.contradictions:
        return Deed(run.name, "make anew", f"differs in {some(found.contradictions)}")
    if missing := found.missing:
        return Deed(run.name, "complete", f"with what MLflow lacked: {some(missing)}")
    return Deed(run.name, "keep")


def some(names: list[str]) -> str:
    """Name a few of many.

    Args:
        names: all of them.
    """
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def show(client: MlflowClient, run: RunFolder, action: Action) -> None:
    """Bring the MLflow run of a run up to its folder.

    Args:
        client: a client of the store.
        run: a run that does not train now.
        action: what it needs.
    """
    if action == "keep":
        return
    cfg = run.config
    if action == "make anew" and (run_id := standing_run(client, run.read_json(RECORD))):
        client.delete_run(run_id)
    experiment_id = ensure_store(cfg.tracking.experiment)
    started = milliseconds(run.status.get("started"))
    run_id, _ = find_or_make_run(client, run, experiment_id, started)
    lacking: Difference = compare(client, run_id, run)
    if lacking.params or lacking.tags:
        describe_run(client, run_id, run, cfg)
    for start in range(0, len(lacking.points), MAX_METRICS):
        client.log_batch(run_id, metrics=lacking.points[start : start + MAX_METRICS])
    if lacking.files:
        log_run_files(client, run_id, run)
        for file, place in truth_of(run).evaluation_files:
            client.log_artifact(run_id, str(file), place)
    ended = milliseconds(run.status.get("finished")) if run.is_done else None
    client.set_terminated(run_id, status_of(run), end_time=ended)
    forget_missed(run)


def rebuild_sweep(
    client: MlflowClient | None, folder: Path, changed: set[str], dry_run: bool
) -> Deed:
    """Show a sweep that MLflow does not show as its folder has it now.

    Args:
        client: a client of the store; None where there is no store yet.
        folder: the folder of its report.
        changed: names of the runs whose MLflow runs are new.
        dry_run: only say what would be done.
    """
    name = f"sweep {folder.name}"
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    runs = [RunFolder(Path(entry["folder"])) for entry in result["runs"]]
    if not any(is_tracked(run) for run in runs):
        return Deed(name, "leave", "none of its runs is tracked")
    record = sweep_record(folder)
    standing = standing_run(client, record) if client and record else None
    if standing is None:
        deed = Deed(name, "make")
    elif record.get("inputs") != result["inputs"]:
        deed = Deed(name, "complete", "its report is newer")
    elif new := sorted(changed & {run.name for run in runs}):
        deed = Deed(name, "complete", f"lacks the links to {some(new)}")
    else:
        deed = Deed(name, "keep")
    if deed.action != "keep" and not dry_run:
        log_sweep(str(folder))
    return deed


def is_tracked(run: RunFolder) -> bool:
    """Tell whether a run is to be shown in MLflow.

    Args:
        run: the run's folder.
    """
    if not run.has_config:
        return False
    tracking: Any = run.config.get("tracking")
    return tracking is not None and tracking.name == "mlflow"
