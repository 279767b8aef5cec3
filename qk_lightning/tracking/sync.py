"""Sending what MLflow missed of runs while it was away: nothing twice, and nothing made anew.

What the store has is compared with the run folders, which are the truth. Imports no Lightning.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from qk_lightning.config.find_runs import find_run, list_runs
from qk_lightning.config.locks import LockHeld
from qk_lightning.config.paths import sweeps_root
from qk_lightning.config.run_folder import RunFolder
from qk_lightning.tracking.mlflow_missed import forget_missed
from qk_lightning.tracking.mlflow_store import check_store, store_file
from qk_lightning.tracking.rebuild import (
    Deed,
    Deeds,
    deed_of,
    is_tracked,
    open_client,
    rebuild_sweep,
    show,
)

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

ALL = "all"


def sync(
    text: str = ALL, dry_run: bool = False, said: Callable[[Deed], None] | None = None
) -> list[Deed]:
    """Send what MLflow lacks of a run, or of all runs and sweeps; runs that were stopped too.

    Args:
        text: a run's name, identity or folder; `all` for every run and sweep.
        dry_run: only say what would be done; the store is not even made.
        said: takes each deed once it is done.

    Returns:
        All deeds: the runs' first, then the sweeps'.

    Raises:
        ConfigError: there is no such run, MLflow is not installed, or the store's address is one
            it refuses.
    """
    check_store()
    runs = list_runs() if text == ALL else [find_run(text)]
    file = store_file()
    is_new = file is not None and not file.is_file()
    wanted = any(_why_not(run) == "" for run in runs)
    client = open_client() if wanted and not (is_new and dry_run) else None
    deeds = Deeds(said)
    for run in runs:
        deeds.add(_sync_run(client, run, dry_run))
    made = {deed.name for deed in deeds.done if deed.action == "make"}
    results = sorted(sweeps_root().glob("*/result.json")) if text == ALL else []
    for result_file in results:
        deeds.add(rebuild_sweep(client, result_file.parent, made, dry_run))
    return deeds.done


def _sync_run(client: MlflowClient | None, run: RunFolder, dry_run: bool) -> Deed:
    if why := _why_not(run):
        return Deed(run.name, "leave", why)
    try:
        with run.lock(wait=False):
            deed = deed_of(client, run)
            if deed.action == "make anew":
                return Deed(run.name, "leave", f"{deed.why}: qk track rebuild makes it anew")
            if client is not None and not dry_run:
                show(client, run, deed.action)
                forget_missed(run)
    except LockHeld:
        return Deed(run.name, "leave", "in use by another process; it sends by itself")
    return deed


def _why_not(run: RunFolder) -> str:
    """Say why a run is not to be sent, "" for one that is."""
    if not is_tracked(run):
        return "tracking.name is none"
    return "" if run.is_done or run.metrics() else "it has no metrics yet"
