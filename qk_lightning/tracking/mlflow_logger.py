"""The logger of a stage's run: Lightning's, with metrics gathered and runs that go on.

Imported only where a run is trained with MLflow on: it imports Lightning.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import MLFlowLogger
from lightning.pytorch.utilities import rank_zero_only
from mlflow.entities import Metric
from mlflow.tracking import MlflowClient
from omegaconf import DictConfig

from qk_lightning.config.atomic import write_json
from qk_lightning.config.run_folder import RunFolder
from qk_lightning.tracking.mlflow_describe import describe_run, flat_params
from qk_lightning.tracking.mlflow_store import (
    MAX_METRICS,
    RECORD,
    ensure_store,
    metric_key,
    outages,
    standing_run,
    storable,
    store_uri,
)

# A call costs 15 to 24 ms however much it carries, and takes up to 1,000 metrics.
FLUSH_SECONDS = 5.0
NOT_SHOWN = "epoch"  # Lightning's own bookkeeping; metrics.csv leaves it out too
PAUSE_SECONDS = 60.0  # after a failure: each try may hold training up for seconds
MAX_WAITING = 50_000
log = logging.getLogger("qk_lightning")

__all__ = ["StageLogger", "flat_params"]


class StageLogger(MLFlowLogger):
    """Shows one run folder as one MLflow run.

    A store that cannot be reached never ends the run: metrics wait until it answers (the oldest
    are dropped past a limit), and the log has one warning. metrics.csv has all of them.

    Args:
        folder: the run's folder; its `mlflow.json` names the MLflow run to go on with.
        cfg: the resolved configuration; its values become the run's parameters, once.
    """

    def __init__(self, folder: RunFolder, cfg: DictConfig) -> None:
        super().__init__(cfg.tracking.experiment, run_name=folder.name, tracking_uri=store_uri())
        self._folder = folder
        self._cfg = cfg
        self._waiting: list[Metric] = []
        self._flushed = time.monotonic()
        self._paused_until = 0.0
        self._warned = False

    @property
    @rank_zero_experiment
    def experiment(self) -> MlflowClient:
        """The MLflow client; the run exists from the first use on, if the store answers."""
        if not self._initialized and time.monotonic() >= self._paused_until:
            try:
                self._connect()
            except outages() as error:
                self._pause(error)
        client: MlflowClient = self._mlflow_client
        return client

    def _connect(self) -> MlflowClient:
        """Return the client; find or make the MLflow run unless that is done."""
        client: MlflowClient = self._mlflow_client
        if self._initialized:
            return client
        experiment_id = ensure_store(self._cfg.tracking.experiment)
        record = self._folder.read_json(RECORD)
        run_id = standing_run(client, record)
        if run_id is not None:
            client.update_run(run_id, status="RUNNING")
        else:
            run_id = str(client.create_run(experiment_id, run_name=self._folder.name).info.run_id)
            record = {"uri": store_uri(), "experiment_id": experiment_id, "run_id": run_id}
            # Noted at once: a failure from here on must not lead to a second MLflow run.
            record["described"] = False
            write_json(self._folder.path / RECORD, record)
        if not record.get("described", True):
            describe_run(client, run_id, self._folder, self._cfg)
            write_json(self._folder.path / RECORD, {**record, "described": True})
        self._experiment_id, self._run_id, self._initialized = experiment_id, run_id, True
        return client

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the resolved configuration was logged when the run was made.

        Args:
            params: a module's hyperparameters, a part of that configuration.
            *args: ignored.
            **kwargs: ignored.
        """

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Gather metrics; they go out together every few seconds.

        Args:
            metrics: value by name.
            step: Lightning's number of the optimiser step: the first one is 0, and 1 here.
        """
        now = int(time.time() * 1000)
        for name, value in metrics.items():
            if name == NOT_SHOWN:
                continue
            amount = storable(float(value))
            self._waiting.append(Metric(metric_key(name), amount, now, (step or 0) + 1))
        del self._waiting[:-MAX_WAITING]
        if len(self._waiting) >= MAX_METRICS:
            self.flush()

    @rank_zero_only
    def save(self) -> None:
        """Send the gathered metrics if it is time. Lightning calls this after every step."""
        if time.monotonic() - self._flushed >= FLUSH_SECONDS:
            self.flush()

    @rank_zero_only
    def flush(self) -> None:
        """Send the gathered metrics, a thousand a call; what fails waits for the next time."""
        self._flushed = time.monotonic()
        if not self._waiting or self._flushed < self._paused_until:
            return
        try:
            client = self._connect()
            while self._waiting:
                client.log_batch(str(self._run_id), metrics=self._waiting[:MAX_METRICS])
                del self._waiting[:MAX_METRICS]
        except outages() as error:
            self._pause(error)

    def _pause(self, error: Exception) -> None:
        self._paused_until = time.monotonic() + PAUSE_SECONDS
        if not self._warned:
            self._warned = True
            text = "MLflow (%s) does not answer; %s goes on, and metrics.csv has its metrics: %s"
            log.warning(text, store_uri(), self._folder.name, error)

    @rank_zero_only
    def log_picture(self, picture: Path) -> None:
        """Show a picture that was drawn in between; what fails comes at the end.

        Args:
            picture: a file in the run's `samples/`.
        """
        if time.monotonic() < self._paused_until:
            return
        try:
            self._connect().log_artifact(str(self._run_id), str(picture), "samples")
        except outages() as error:
            self._pause(error)

    @rank_zero_only
    def finalize(self, status: str = "success") -> None:
        """Send what is left and close the MLflow run.

        Args:
            status: Lightning's word for how the run ended; what Ctrl-C ended is `failed` to it.
        """
        if isinstance(sys.exception(), KeyboardInterrupt):
            status = "KILLED"
        self._paused_until = 0.0
        self.flush()
        if self._paused_until:
            return
        try:
            super().finalize(status)
        except outages() as error:
            self._pause(error)
