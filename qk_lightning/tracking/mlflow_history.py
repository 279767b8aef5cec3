"""A run's metrics.csv as MLflow's points, and which of them the store has.

MLflow never forgets a point. A run that was killed measures its last steps again when it goes on:
what comes out the same is not sent twice, of what does not the later point counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from qk_lightning.config.run_folder import RunFolder
from qk_lightning.tracking.mlflow_store import metric_key, storable

if TYPE_CHECKING:
    from mlflow.entities import Metric
    from mlflow.tracking import MlflowClient

Place = tuple[str, int]  # a metric's name in MLflow, and the optimiser step


def points_of(run: RunFolder) -> list[Metric]:
    """Return metrics.csv as MLflow's metrics; their times are spread over the run's.

    Args:
        run: the run's folder.
    """
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


def shown_points(
    client: MlflowClient, run_id: str, keys: Iterable[str] | None = None
) -> dict[Place, list[Metric]]:
    """Read what the store has of some metrics.

    Args:
        client: a client of the store.
        run_id: the MLflow run.
        keys: names of metrics there; None for all.

    Returns:
        The points of each metric and step, oldest first.
    """
    found: dict[Place, list[Metric]] = {}
    there = set(client.get_run(run_id).data.metrics)
    for key in there if keys is None else there & set(keys):
        for point in client.get_metric_history(run_id, key):
            found.setdefault((key, point.step), []).append(point)
    for points in found.values():
        points.sort(key=lambda point: int(point.timestamp))
    return found


def has_point(shown: dict[Place, list[Metric]], point: Metric) -> bool:
    """Tell whether the store has a point, with the same value.

    Args:
        shown: what the store has.
        point: the point; its time does not count.
    """
    there = shown.get((point.key, point.step), [])
    return any(exact(other.value) == exact(point.value) for other in there)


def exact(value: float) -> str:
    """Return a value as text that is equal for equal values, NaN too.

    Args:
        value: a metric's value.
    """
    return "nan" if math.isnan(value) else float(value).hex()


def milliseconds(text: Any) -> int | None:
    """Turn a status file's time into MLflow's.

    Args:
        text: an ISO date and time, or None.
    """
    return int(datetime.fromisoformat(text).timestamp() * 1000) if text else None
