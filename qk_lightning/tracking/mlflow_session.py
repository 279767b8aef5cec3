"""What a run that trains says to its MLflow run. Every call may raise one of `outages()`."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from qk_lightning.config.run_folder import RunFolder
from qk_lightning.tracking.mlflow_describe import describe_run
from qk_lightning.tracking.mlflow_files import SAMPLES, find_or_make_run, log_run_files
from qk_lightning.tracking.mlflow_history import (
    Place,
    has_point,
    milliseconds,
    points_of,
    shown_points,
)
from qk_lightning.tracking.mlflow_store import ensure_store, make_client

if TYPE_CHECKING:
    from mlflow.entities import Metric

NOISY = "mlflow.store.db.utils"  # prints a traceback whenever a database is away


class Session:
    """One MLflow run, found or made.

    Args:
        run: the run's folder.
        cfg: its resolved configuration.
        sent: called after each call that went well.
    """

    def __init__(self, run: RunFolder, cfg: DictConfig, sent: Callable[[], None]) -> None:
        self.run = run
        _keep_quiet(threading.current_thread().name)
        experiment_id = ensure_store(cfg.tracking.experiment)
        sent()
        self.client = make_client()
        started = milliseconds(run.status.get("started"))
        self.run_id, stood = find_or_make_run(self.client, run, experiment_id, started)
        sent()
        if stood:
            self.client.update_run(self.run_id, status="RUNNING")
        describe_run(self.client, self.run_id, run, cfg)
        sent()
        # What a process before this one sent, past the checkpoint too.
        self._shown: dict[Place, list[Metric]] = {}
        if stood:
            self._shown = shown_points(self.client, self.run_id)

    def missing(self, before: int, waiting: Collection[Place] = ()) -> list[Metric]:
        """Return what metrics.csv has and the store has not.

        Args:
            before: an optimiser step; later ones come by the queue.
            waiting: what the queue has.
        """
        rows = [
            point
            for point in points_of(self.run)
            if point.step < before and (point.key, point.step) not in waiting
        ]
        shown = shown_points(self.client, self.run_id, {point.key for point in rows})
        return [point for point in rows if not has_point(shown, point)]

    def send_points(self, points: list[Metric]) -> None:
        """Send points, but those that came out the same before the run went on.

        A store passes over a point that it has with the same time: after a call that failed, the
        same points can be sent again.

        Args:
            points: a thousand at most.
        """
        new = [point for point in points if not has_point(self._shown, point)]
        if new:
            self.client.log_batch(self.run_id, metrics=new)

    def send_picture(self, picture: Path) -> None:
        """Send a picture of the run.

        Args:
            picture: a file in its `samples/`.
        """
        self.client.log_artifact(self.run_id, str(picture), SAMPLES)

    def close(self, status: str, with_files: bool, sent: Callable[[], None]) -> None:
        """Close the MLflow run.

        Args:
            status: MLflow's word for how the run ended.
            with_files: send the run's files before.
            sent: called after each call that went well.
        """
        if with_files:
            log_run_files(self.client, self.run_id, self.run, sent)
        self.client.set_terminated(self.run_id, status)


def _keep_quiet(thread: str) -> None:
    """Leave out what MLflow itself prints of an outage in this thread: one warning is enough."""
    noisy = logging.getLogger(NOISY)
    if not any(isinstance(found, _OtherThreads) for found in noisy.filters):
        noisy.addFilter(_OtherThreads(thread))


class _OtherThreads(logging.Filter):
    """Let through what other threads log."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether a record is shown."""
        return record.threadName != self.name
