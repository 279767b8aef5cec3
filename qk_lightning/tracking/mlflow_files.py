"""The files of a run that MLflow shows, and finding or making the MLflow run they belong to."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from qk_lightning.config.atomic import write_json
from qk_lightning.config.run_folder import RunFolder
from qk_lightning.tracking.mlflow_missed import note_missed
from qk_lightning.tracking.mlflow_store import RECORD, standing_run, store_uri
from qk_lightning.tracking.sample_grid import write_sample_grid
from qk_lightning.tracking.settings import SETTINGS

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

# Without status.json: it says `running` until all of this is stored.
RUN_FILES = (
    "config.yaml", "metrics.csv", "parameters.json", "provenance.json", "sources.json",
    "weights.json", "parent.json", SETTINGS,
)  # fmt: skip
SAMPLES = "samples"
GRID = "final.png"
TOKEN = "qk.token"  # noqa: S105 - marks an MLflow run, opens nothing


def find_or_make_run(
    client: MlflowClient, run: RunFolder, experiment_id: str, started: int | None = None
) -> tuple[str, bool]:
    """Return the MLflow run of a run folder; the folder's `mlflow.json` keeps it.

    Args:
        client: a client of the store.
        run: the run's folder.
        experiment_id: where a new one goes.
        started: when the run began, in milliseconds; None for now.

    Returns:
        Its id, and whether it stood there before.
    """
    if (run_id := standing_run(client, run.read_json(RECORD))) is not None:
        return run_id, True
    # A server that hangs makes the run when it is awake again, and nobody hears of it.
    token = note_missed(run, "its MLflow run is being made")
    found = client.search_runs([experiment_id], f"tags.`{TOKEN}` = '{token}'", max_results=1)
    if found:
        run_id = str(found[0].info.run_id)
    else:
        tags = {TOKEN: token}
        made = client.create_run(experiment_id, started, tags, run_name=run.name)
        run_id = str(made.info.run_id)
    record = {"uri": store_uri(), "experiment_id": experiment_id, "run_id": run_id}
    # Noted at once: a failure from here on must not lead to a second MLflow run.
    write_json(run.path / RECORD, record)
    return run_id, bool(found)


def log_run_files(
    client: MlflowClient, run_id: str, run: RunFolder, sent: Callable[[], None] = lambda: None
) -> None:
    """Put a run's small files and its pictures into its MLflow run.

    Args:
        client: a client of the store.
        run_id: the MLflow run.
        run: the run's folder.
        sent: called after each file.
    """
    for file, place in run_files(run):
        client.log_artifact(run_id, str(file), place)
        sent()
    with tempfile.TemporaryDirectory() as temporary:
        grid = Path(temporary) / GRID
        if write_sample_grid(grid, {run.name: run.samples}):
            client.log_artifact(run_id, str(grid), SAMPLES)
            sent()


def run_files(folder: RunFolder) -> list[tuple[Path, str | None]]:
    """List the files of a run that MLflow shows, beside the grid of its last samples.

    Args:
        folder: the run.

    Returns:
        Each file with the folder that it stands in there, None for the top.
    """
    named = [folder.path / name for name in RUN_FILES]
    found: list[tuple[Path, str | None]] = [(file, None) for file in named if file.is_file()]
    return found + [(picture, SAMPLES) for picture in sorted(folder.samples.glob("*.png"))]
