"""What MLflow should show of a finished run, and what it lacks or shows otherwise."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qk_lightning.config.run_folder import RunFolder
from qk_lightning.evaluation.levels import EVALUATIONS, FINAL, SUMMARY
from qk_lightning.tracking.mlflow_describe import flat_params, tags_of
from qk_lightning.tracking.mlflow_evaluation import evaluation_files, evaluation_metrics
from qk_lightning.tracking.mlflow_store import GRID, SAMPLES, metric_key, run_files, storable
from qk_lightning.tracking.sample_grid import read_prompts

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient


@dataclass(frozen=True)
class Truth:
    """What a run folder says.

    Args:
        params: the flat configuration.
        tags: what names the run.
        points: MLflow metrics, those of metrics.csv first, then the evaluations' in order of time.
        files: path inside MLflow of each file.
        evaluation_files: the evaluations' files with their folder there.
    """

    params: dict[str, str]
    tags: dict[str, str]
    points: list[Any]
    files: list[str]
    evaluation_files: list[tuple[Path, str]]


@dataclass
class Difference:
    """How an MLflow run and its folder differ.

    Args:
        params: parameters that are missing.
        tags: tags that are missing or otherwise.
        points: metrics that are missing.
        files: files that are missing, as paths inside MLflow.
        contradictions: metrics and parameters with other values, which MLflow cannot change.
        unfinished: MLflow believes that the run has not ended well.
    """

    params: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    points: list[Any] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    contradictions: list[str] = field(default_factory=list)
    unfinished: bool = False

    @property
    def missing(self) -> list[str]:
        """Names of all that is missing."""
        found = [*self.params, *self.tags, *dict.fromkeys(point.key for point in self.points)]
        return [*found, *self.files, *(["its end"] if self.unfinished else [])]


def truth_of(run: RunFolder) -> Truth:
    """Read what MLflow should show of a run.

    Args:
        run: a finished run.
    """
    cfg = run.config
    evaluations = sorted(
        (
            file
            for file in (run.path / EVALUATIONS).glob(f"*/{SUMMARY}")
            if file.parent.name != FINAL
        ),
        key=lambda file: file.stat().st_mtime,
    )
    beside = [pair for file in evaluations for pair in evaluation_files(file.parent)]
    files = [f"{place}/{file.name}" if place else file.name for file, place in run_files(run)]
    files += [f"{SAMPLES}/{GRID}"] if read_prompts(run.samples) else []
    files += [f"{place}/{file.name}" for file, place in beside]
    points = _points(run)
    for file in evaluations:
        summary = json.loads(file.read_text(encoding="utf-8"))
        when = int(file.stat().st_mtime * 1000)
        points += evaluation_metrics(summary, file.parent, int(run.status.get("step", 0)), when)
    return Truth(flat_params(cfg), tags_of(run, cfg), points, files, beside)


def _points(run: RunFolder) -> list[Any]:
    """Return metrics.csv as MLflow's metrics; their times are spread over the run's."""
    from mlflow.entities import Metric

    rows = run.metrics()
    start = milliseconds(run.status.get("started")) or 0
    end = milliseconds(run.status.get("finished")) or start
    last = max((row["step"] for row in rows), default=1) or 1
    return [
        Metric(
            metric_key(row["metric"]),
            storable(row["value"]),
            start + (end - start) * row["step"] // last,
            row["step"],
        )
        for row in rows
    ]


def milliseconds(text: Any) -> int | None:
    """Turn a status file's time into MLflow's.

    Args:
        text: an ISO date and time, or None.
    """
    return int(datetime.fromisoformat(text).timestamp() * 1000) if text else None


def compare(client: MlflowClient, run_id: str, run: RunFolder) -> Difference:
    """Hold an MLflow run against its folder.

    What the store shows beyond the folder (tags of sweeps, a user's notes) is nobody's business.

    Args:
        client: a client of the store.
        run_id: the MLflow run.
        run: the finished run.
    """
    truth, shown = truth_of(run), client.get_run(run_id)
    found = Difference(unfinished=shown.info.status != "FINISHED")
    params, tags = shown.data.params, shown.data.tags
    found.params = [key for key in truth.params if key not in params]
    found.contradictions = [
        key for key, value in truth.params.items() if params.get(key, value) != value
    ]
    found.tags = [key for key, value in truth.tags.items() if tags.get(key) != value]
    right: dict[tuple[str, int], set[str]] = {}
    for point in truth.points:
        right.setdefault((point.key, point.step), set()).add(_exact(point.value))
    there: dict[tuple[str, int], set[str]] = {}
    for key in {point.key for point in truth.points} & set(shown.data.metrics):
        for point in client.get_metric_history(run_id, key):
            there.setdefault((key, point.step), set()).add(_exact(point.value))
    wrong = {key for (key, step), values in there.items()
             if (key, step) in right and values - right[key, step]}  # fmt: skip
    found.contradictions += sorted(wrong)
    found.points = [
        point
        for point in truth.points
        if _exact(point.value) not in there.get((point.key, point.step), ())
    ]
    stored = _files(client, run_id, truth)
    found.files = [file for file in truth.files if file not in stored]
    return found


def _exact(value: float) -> str:
    return "nan" if math.isnan(value) else float(value).hex()


def _files(client: MlflowClient, run_id: str, truth: Truth) -> set[str]:
    folders = {file.rpartition("/")[0] for file in truth.files}
    return {
        item.path for folder in folders for item in client.list_artifacts(run_id, folder or None)
    }
