"""The logger of a stage's run: Lightning's, with metrics gathered and runs that go on.

Imported only where a run is trained with MLflow on: it imports Lightning.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import MLFlowLogger
from lightning.pytorch.utilities import rank_zero_only
from mlflow.entities import Metric, Param, RunTag
from mlflow.tracking import MlflowClient
from omegaconf import DictConfig, OmegaConf

from qk_lightning.config.atomic import write_json
from qk_lightning.config.run_folder import RunFolder
from qk_lightning.tracking.mlflow_store import RECORD, ensure_store, standing_run, store_uri

# A call costs 15 to 24 ms however much it carries, and takes up to 1,000 metrics.
FLUSH_SECONDS = 5.0
MAX_METRICS = 1000
MAX_PARAMS = 100
MAX_CHARACTERS = 500


class StageLogger(MLFlowLogger):
    """Shows one run folder as one MLflow run.

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

    @property
    @rank_zero_experiment
    def experiment(self) -> MlflowClient:
        """The MLflow client; the run exists from the first use on."""
        client: MlflowClient = self._mlflow_client
        if not self._initialized:
            experiment_id = ensure_store(self._cfg.tracking.experiment)
            run_id = standing_run(client, self._folder.read_json(RECORD))
            if run_id is not None:
                client.update_run(run_id, status="RUNNING")
            self._experiment_id = experiment_id
            self._run_id = run_id or self._create(client, experiment_id)
            self._initialized = True
        return client

    def _create(self, client: MlflowClient, experiment_id: str) -> str:
        """Make the MLflow run with its parameters and tags, and note it in the run folder."""
        tags = {
            "qk.kind": "stage",
            "qk.identity": self._folder.identity,
            "qk.stage": str(self._cfg.stage),
            "qk.name": str(self._cfg.name),
            "qk.folder": str(self._folder.path),
        }
        run = client.create_run(experiment_id, run_name=self._folder.name)
        run_id = str(run.info.run_id)
        params = [Param(key, value) for key, value in flat_params(self._cfg).items()]
        for start in range(0, len(params), MAX_PARAMS):
            client.log_batch(run_id, params=params[start : start + MAX_PARAMS])
        client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
        client.log_artifact(run_id, str(self._folder.path / "config.yaml"))
        record = {"uri": store_uri(), "experiment_id": experiment_id, "run_id": run_id}
        write_json(self._folder.path / RECORD, record)
        return run_id

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
            step: the optimiser step.
        """
        now = int(time.time() * 1000)
        for name, value in metrics.items():
            key = re.sub(r"[^\w/. -]", "_", name)
            self._waiting.append(Metric(key, _storable(float(value)), now, step or 0))
        if len(self._waiting) >= MAX_METRICS:
            self.flush()

    @rank_zero_only
    def save(self) -> None:
        """Send the gathered metrics if it is time. Lightning calls this after every step."""
        if time.monotonic() - self._flushed >= FLUSH_SECONDS:
            self.flush()

    @rank_zero_only
    def flush(self) -> None:
        """Send the gathered metrics, a thousand a call."""
        waiting, self._waiting, self._flushed = self._waiting, [], time.monotonic()
        for start in range(0, len(waiting), MAX_METRICS):
            self.experiment.log_batch(self.run_id, metrics=waiting[start : start + MAX_METRICS])

    @rank_zero_only
    def finalize(self, status: str = "success") -> None:
        """Send what is left and close the MLflow run.

        Args:
            status: Lightning's word for how the run ended.
        """
        self.flush()
        super().finalize(status)


def flat_params(cfg: DictConfig) -> dict[str, str]:
    """Flatten a configuration to MLflow's parameters.

    Args:
        cfg: the resolved configuration.

    Returns:
        Text by dotted key; options that are not set are left out, long values are cut (the whole
        YAML is an artifact).
    """
    flat: dict[str, str] = {}

    def walk(prefix: str, values: dict[str, Any]) -> None:
        for key, value in values.items():
            if isinstance(value, dict):
                walk(f"{prefix}{key}.", value)
            elif value is not None:
                flat[f"{prefix}{key}"] = str(value)[:MAX_CHARACTERS]

    walk("", OmegaConf.to_container(cfg, resolve=True))  # type: ignore[arg-type]
    return flat


def _storable(value: float) -> float:
    """Bound infinities: sqlite keeps them as the largest float, other stores refuse them."""
    return math.copysign(1.7e308, value) if math.isinf(value) else value
