"""What MLflow should show of a run, and what it lacks or shows otherwise."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qk_lightning.config.run_folder import RunFolder
from qk_lightning.evaluation.levels import EVALUATIONS, FINAL, SUMMARY
from qk_lightning.tracking.mlflow_describe import params_of, tags_of
from qk_lightning.tracking.mlflow_evaluation import evaluation_files, evaluation_metrics
from qk_lightning.tracking.mlflow_files import GRID, SAMPLES, run_files
from qk_lightning.tracking.mlflow_history import Place, exact, has_point, points_of, shown_points
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
        unfinished: MLflow believes that the run has not ended, or otherwise.
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
        run: a run that does not train now.
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
    points = points_of(run)
    for file in evaluations:
        summary = json.loads(file.read_text(encoding="utf-8"))
        when = int(file.stat().st_mtime * 1000)
        points += evaluation_metrics(summary, file.parent, int(run.status.get("step", 0)), when)
    return Truth(params_of(run, cfg), tags_of(run, cfg), points, files, beside)


def compare(client: MlflowClient, run_id: str, run: RunFolder) -> Difference:
    """Hold an MLflow run against its folder.

    What the store shows beyond the folder (tags of sweeps, a user's notes) is nobody's business.

    Args:
        client: a client of the store.
        run_id: the MLflow run.
        run: a run that does not train now.
    """
    truth, shown = truth_of(run), client.get_run(run_id)
    found = Difference(unfinished=shown.info.status != status_of(run))
    params, tags = shown.data.params, shown.data.tags
    found.params = [key for key in truth.params if key not in params]
    found.contradictions = [
        key for key, value in truth.params.items() if params.get(key, value) != value
    ]
    found.tags = [key for key, value in truth.tags.items() if tags.get(key) != value]
    there = shown_points(client, run_id, {point.key for point in truth.points})
    right: dict[Place, set[str]] = {}
    for point in truth.points:
        right.setdefault((point.key, point.step), set()).add(exact(point.value))
    # A run that went on after a kill has older points too: the newest one counts.
    wrong = (
        place
        for place in right.keys() & there.keys()
        if exact(there[place][-1].value) not in right[place]
    )
    found.contradictions += sorted({key for key, _ in wrong})
    found.points = [point for point in truth.points if not has_point(there, point)]
    stored = _files(client, run_id, truth)
    found.files = [file for file in truth.files if file not in stored]
    return found


def status_of(run: RunFolder) -> str:
    """Return MLflow's word for how a run ended.

    Args:
        run: a run that does not train now.
    """
    return {"done": "FINISHED", "failed": "FAILED"}.get(run.state, "KILLED")


def _files(client: MlflowClient, run_id: str, truth: Truth) -> set[str]:
    folders = {file.rpartition("/")[0] for file in truth.files}
    return {
        item.path for folder in folders for item in client.list_artifacts(run_id, folder or None)
    }
