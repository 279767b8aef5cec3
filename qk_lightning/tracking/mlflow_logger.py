"""The logger of a stage's run: it gives what Lightning logs to the thread that sends it.

Imported only where a run is trained with MLflow on: it imports Lightning and MLflow.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from mlflow.entities import Metric
from mlflow.tracking import MlflowClient  # noqa: F401 - imported here, and not while it trains
from omegaconf import DictConfig

from qk_lightning.config.run_folder import RunFolder
from qk_lightning.tracking.mlflow_sender import Sender
from qk_lightning.tracking.mlflow_session import Session
from qk_lightning.tracking.mlflow_store import (
    PATIENCE,
    RETRIES,
    metric_key,
    set_variables,
    storable,
)

NOT_SHOWN = "epoch"  # Lightning's own bookkeeping; metrics.csv leaves it out too


class StageLogger(Logger):
    """Shows one run folder as one MLflow run.

    A store that cannot be reached neither ends nor slows the run. What it missed is sent when it
    answers again, at the end of the run, when the run goes on, or by `qk track sync`.

    Args:
        folder: the run's folder; its `mlflow.json` names the MLflow run to go on with.
        cfg: the resolved configuration; its values become the run's parameters, once.
    """

    def __init__(self, folder: RunFolder, cfg: DictConfig) -> None:
        super().__init__()
        if os.environ.get(RETRIES, PATIENCE[RETRIES]) == PATIENCE[RETRIES]:  # not a user's own
            os.environ[RETRIES] = "0"  # the thread has pauses of its own
        set_variables()
        self._folder = folder
        self.sender = Sender(folder, lambda sent: Session(folder, cfg, sent))

    @property
    def name(self) -> str:
        """The run's name."""
        return self._folder.name

    @property
    def version(self) -> str:
        """The run's identity."""
        return self._folder.identity

    @property
    def run_id(self) -> str | None:
        """The MLflow run; None until the store has answered."""
        return self.sender.session.run_id if self.sender.session else None

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the resolved configuration is logged when the run is found or made.

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
        self.sender.add(
            Metric(metric_key(name), storable(float(value)), now, (step or 0) + 1)
            for name, value in metrics.items()
            if name != NOT_SHOWN
        )

    @rank_zero_only
    def log_picture(self, picture: Path) -> None:
        """Show a picture that was drawn in between.

        Args:
            picture: a file in the run's `samples/`.
        """
        self.sender.show(picture)

    @rank_zero_only
    def finalize(self, status: str = "success") -> None:
        """Close the MLflow run of a run that failed or was stopped; one that did well goes on.

        Args:
            status: Lightning's word for how training ended; what Ctrl-C ended is `failed` to it.
        """
        if status == "success":  # the weights are scored next, and `finish` closes
            return
        if isinstance(sys.exception(), KeyboardInterrupt):
            self.sender.end("KILLED", is_stopped=True)
        else:
            self.sender.end("FAILED")

    @rank_zero_only
    def finish(self) -> None:
        """Send the run's files and what is left, and close the MLflow run."""
        self.sender.end("FINISHED", with_files=True)
