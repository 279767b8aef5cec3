"""The scores of `qk evaluate` in the MLflow run of the run that was scored."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

from qk_lightning.config.run_folder import RunFolder
from qk_lightning.tracking.mlflow_missed import note_missed
from qk_lightning.tracking.mlflow_store import (
    MAX_METRICS,
    RECORD,
    make_client,
    metric_key,
    outages,
    reason,
    standing_run,
    storable,
)

FILES = ("summary.json", "results.jsonl", "prompt_set.json")
log = logging.getLogger("qk_lightning")


def log_evaluation(run: RunFolder, summary: dict[str, Any], folder: Path) -> None:
    """Add a suite's scores and files to the run's MLflow run.

    A run that was not tracked in this store is left alone; a store that cannot be reached is a
    warning in the log, as the files stand in the run folder.

    Args:
        run: the run that was scored.
        summary: what summary.json holds.
        folder: the folder of the suite's files.
    """
    record = run.read_json(RECORD)
    if not record:
        return
    try:
        client = make_client()
        run_id = standing_run(client, record)
        if run_id is None:
            return
        metrics = evaluation_metrics(summary, folder, int(run.status.get("step", 0)), _now())
        for start in range(0, len(metrics), MAX_METRICS):
            client.log_batch(run_id, metrics=metrics[start : start + MAX_METRICS])
        for file, place in evaluation_files(folder):
            client.log_artifact(run_id, str(file), place)
    except outages() as error:
        note_missed(run, reason(error))
        text = "the scores of %s are not in MLflow (%s): qk track sync %s"
        log.warning(text, run.name, reason(error), run.name)


def evaluation_metrics(
    summary: dict[str, Any], folder: Path, step: int, milliseconds: int
) -> list[Any]:
    """Return a suite's scores as MLflow's metrics, `evaluate/<name of the folder>/<score>`.

    The scores of the end of the run keep `eval/...` to themselves: they are of fewer items.

    Args:
        summary: what summary.json holds.
        folder: the folder of the suite's files.
        step: the run's last optimiser step.
        milliseconds: when they were measured.
    """
    from mlflow.entities import Metric

    prefix = f"eval/{summary['suite']}/"
    return [
        Metric(
            metric_key(f"evaluate/{folder.name}/{name.removeprefix(prefix)}"),
            storable(entry["value"]),
            milliseconds,
            step,
        )
        for name, entry in summary["metrics"].items()
    ]


def evaluation_files(folder: Path) -> list[tuple[Path, str]]:
    """List the files of an evaluation that MLflow shows, with the folder they stand in there.

    Args:
        folder: the folder of the suite's files.
    """
    files = [folder / name for name in FILES]
    return [(file, f"evaluations/{folder.name}") for file in files if file.is_file()]


def _now() -> int:
    return int(time.time() * 1000)
