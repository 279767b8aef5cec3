"""A sweep in MLflow: one run with its table, its plot and links to the runs of its stages."""

from __future__ import annotations

import html
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qk_lightning.config.atomic import write_json
from qk_lightning.config.run_folder import RunFolder
from qk_lightning.tracking.mlflow_store import (
    MAX_METRICS,
    RECORD,
    ensure_store,
    make_client,
    metric_key,
    outages,
    reason,
    standing_run,
    storable,
    store_file,
    store_uri,
)

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

PARENT = "mlflow.parentRunId"
SWEEP_FILES = (
    "report.md", "report.html", "report.tex", "results.csv", "table.csv", "plot.png",
)  # fmt: skip


def log_sweep(sweep_folder: str) -> str:
    """Show a sweep as one MLflow run: its table, its plot, links to the runs of its stages.

    The MLflow run is kept in the folder's `mlflow.json`: a sweep that grows goes on in it.

    Args:
        sweep_folder: the folder of its report.

    Returns:
        The id of the MLflow run.
    """
    folder = Path(sweep_folder)
    result = json.loads((folder / "result.json").read_text())
    experiment_id = ensure_store(result["experiment"])
    client = make_client()
    run_id = standing_run(client, sweep_record(folder))
    if run_id is None:
        run_id = str(
            client.create_run(experiment_id, run_name=f"sweep {result['name']}").info.run_id
        )
    _log_metrics(client, run_id, result)
    links = _tag_stage_runs(client, run_id, result)
    _log_files(client, run_id, folder)
    client.log_text(run_id, _table_html(result["summary"]), "table.html")
    client.log_dict(run_id, {"runs": links}, "runs.json")
    tags = {
        "qk.kind": "sweep",
        "qk.sweep": result["name"],
        "qk.folder": str(folder),
        "mlflow.note.content": _note(result, links),
    }
    for key, value in tags.items():
        client.set_tag(run_id, key, value)
    client.set_terminated(run_id, "FINISHED")
    record = {"uri": store_uri(), "run_id": run_id, "inputs": result["inputs"]}
    write_json(folder / RECORD, record)
    return run_id


def show_sweep(sweep_folder: str) -> str:
    """Show a sweep in MLflow if the store can be used now.

    Args:
        sweep_folder: the folder of its report.

    Returns:
        "", or why MLflow does not show it and what shows it later.
    """
    try:
        log_sweep(sweep_folder)
    except outages() as error:
        return f"{reason(error)}; send it: qk track sync"
    return ""


def is_logged(sweep_folder: Path, inputs: str) -> bool:
    """Tell whether the store shows a sweep as it is now. Needs no MLflow.

    Args:
        sweep_folder: the folder of its report.
        inputs: hash of what the report is made of.
    """
    record, file = sweep_record(sweep_folder), store_file()
    is_lost = file is not None and not file.is_file()
    is_same = record.get("uri") == store_uri() and record.get("inputs") == inputs
    return is_same and not is_lost


def sweep_record(folder: Path) -> dict[str, Any]:
    """Read which MLflow run shows a sweep, {} where none does.

    Args:
        folder: the folder of its report.
    """
    file = folder / RECORD
    return dict(json.loads(file.read_text())) if file.is_file() else {}


def _log_metrics(client: MlflowClient, run_id: str, result: dict[str, Any]) -> None:
    """Log each mean; a whole number on the first axis serves as MLflow's step."""
    from mlflow.entities import Metric

    axis = next(iter(result["axes"]), None)
    now = int(time.time() * 1000)
    metrics = []
    for row in result["table"]:
        value = row["values"].get(axis)
        is_step = isinstance(value, int) and not row["control"] and len(result["axes"]) == 1
        for name, summary in row["metrics"].items():
            if summary is None:
                continue
            key = f"{row['stage']}/{name}" if is_step else f"{row['stage']}/{name}/{row['row']}"
            mean = storable(summary["mean"])
            metrics.append(Metric(metric_key(key), mean, now, value if is_step else 0))
    for start in range(0, len(metrics), MAX_METRICS):
        client.log_batch(run_id, metrics=metrics[start : start + MAX_METRICS])


def _tag_stage_runs(
    client: MlflowClient, sweep_id: str, result: dict[str, Any]
) -> list[dict[str, Any]]:
    """Tag the MLflow runs of the sweep's stages with it, make them its children, and list them.

    MLflow knows one parent of a run: of sweeps that share it, the first that was shown.
    """
    links = []
    for entry in result["runs"]:
        run = RunFolder(Path(entry["folder"]))
        record = run.read_json(RECORD)
        run_id = standing_run(client, record) if record else None
        members = "; ".join(entry["members"])
        if run_id is not None:
            client.set_tag(run_id, f"qk.sweep.{result['name']}", members[:5000])
            parent = client.get_run(run_id).data.tags.get(PARENT)
            if parent is None or standing_run(client, record | {"run_id": parent}) is None:
                client.set_tag(run_id, PARENT, sweep_id)
        link = f"#/experiments/{record['experiment_id']}/runs/{run_id}" if run_id else None
        links.append(
            {
                "run": run.name,
                "stage": entry["stage"],
                "members": entry["members"],
                "mlflow_run_id": run_id,
                "link": link,
            }
        )
    return links


def _log_files(client: MlflowClient, run_id: str, folder: Path) -> None:
    for name in SWEEP_FILES:
        if (folder / name).is_file():
            client.log_artifact(run_id, str(folder / name))
    if (folder / "grids").is_dir():
        client.log_artifacts(run_id, str(folder / "grids"), "grids")


def _note(result: dict[str, Any], links: list[dict[str, Any]]) -> str:
    """Write the run's description: the table, and a link a stage run."""
    lines = [f"### Sweep {result['name']}", "", "```", result["summary"], "```", ""]
    for entry in links:
        members = ", ".join(entry["members"])
        name = f"[{entry['run']}]({entry['link']})" if entry["link"] else entry["run"]
        lines.append(f"- {name}: {members}")
    return "\n".join(lines)


def _table_html(summary: str) -> str:
    return f"<pre>{html.escape(summary)}</pre>\n"
