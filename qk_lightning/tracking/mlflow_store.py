"""Where the MLflow store is, and making it so that no two processes make it together.

The store is `$MLFLOW_TRACKING_URI`, else one sqlite file under `runs/mlflow`. The run folder is
the truth; losing the store loses a view.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import math
import os
import re
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from omegaconf import DictConfig

from qk_lightning.config.errors import ConfigError, Problem
from qk_lightning.config.locks import FolderLock
from qk_lightning.config.paths import runs_root
from qk_lightning.config.run_folder import RunFolder
from qk_lightning.tracking.mlflow_address import check_address

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger
    from mlflow.tracking import MlflowClient

SQLITE = "sqlite:///"
VARIABLE = "MLFLOW_TRACKING_URI"
RECORD = "mlflow.json"
MAX_METRICS = 1000  # a call takes no more
# MLflow's own, 7 and 120 s, hold a caller up for a quarter of an hour where a server hangs.
RETRIES, TIMEOUT = "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"
PATIENCE = {RETRIES: "2", TIMEOUT: "10"}
VARIABLES = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # amid our display
    **PATIENCE,
}
SQLITE_SECONDS = 2.0
log = logging.getLogger("qk_lightning")


@runtime_checkable
class Finishes(Protocol):
    """A logger that wants to know that its run has ended well."""

    def finish(self) -> None:
        """Send what is left."""


def store_uri() -> str:
    """Return the address of the store: `$MLFLOW_TRACKING_URI`, else sqlite under `runs/`."""
    given = os.environ.get(VARIABLE)
    return given or f"{SQLITE}{runs_root() / 'mlflow' / 'mlflow.db'}"


def check_tracking(cfg: DictConfig) -> None:
    """Check that a run can be tracked as it asks for, before anything starts.

    Args:
        cfg: the run's configuration.

    Raises:
        ConfigError: MLflow is wanted and is not installed, or its address is a folder.
    """
    if cfg.tracking.name == "mlflow":
        check_store()


def check_store() -> None:
    """Check that MLflow is installed and that the store's address is one that it takes.

    Raises:
        ConfigError: it is not.
    """
    if importlib.util.find_spec("mlflow") is None:
        fix = "pip install mlflow, or turn tracking off: tracking.name=none"
        raise ConfigError(Problem("tracking.name", "mlflow", "an installed mlflow", fix))
    uri = store_uri()
    is_folder = uri.startswith("file:") or "://" not in uri
    allowed = os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() == "true"
    if is_folder and not allowed and not uri.startswith("databricks"):
        fix = f"{VARIABLE}=sqlite:////absolute/path/mlflow.db, or leave it unset"
        expected = "an address that MLflow 3 takes (it refuses stores of files)"
        raise ConfigError(Problem(VARIABLE, uri, expected, fix))
    if not is_folder:
        check_address(VARIABLE, uri)


def store_folder() -> Path | None:
    """Return the folder of a store that is a sqlite file, None for any other."""
    uri = store_uri()
    if not uri.startswith(SQLITE):
        return None
    path = uri.removeprefix(SQLITE).partition("?")[0]
    return Path(path).absolute().parent


def store_file() -> Path | None:
    """Return the sqlite file of the store, which may not exist yet; None for any other store."""
    folder = store_folder()
    name = store_uri().removeprefix(SQLITE).partition("?")[0]
    return None if folder is None else folder / Path(name).name


def ensure_store(experiment: str) -> str:
    """Make the store and the experiment, unless they are there.

    Processes that make one sqlite store together crash; a lock on its folder prevents that.

    Args:
        experiment: name of the experiment.

    Returns:
        The experiment's id.
    """
    folder = store_folder()
    if folder is None:
        return _ensure_experiment(experiment, None)
    with FolderLock(folder):
        return _ensure_experiment(experiment, (folder / "artifacts").as_uri())


def _ensure_experiment(experiment: str, artifacts: str | None) -> str:
    client = make_client()
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return str(client.create_experiment(experiment, artifact_location=artifacts))
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def make_client() -> MlflowClient:
    """Return a client of the store, which gives a server that is away up within a minute.

    Raises:
        ConfigError: MLflow is not installed.
        OSError: the store is a sqlite file that cannot be opened now.
    """
    set_variables()
    try:
        from mlflow.tracking import MlflowClient
    except ImportError as error:
        fix = "pip install mlflow, or turn tracking off: tracking.name=none"
        problem = Problem("tracking.name", "mlflow", "an installed mlflow", fix)
        raise ConfigError(problem) from error
    _check_sqlite()
    return MlflowClient(store_uri())


def set_variables() -> None:
    """Set MLflow's environment variables, where the user has not.

    A thread must find them set: libraries without Python's lock, such as tokenizers, read the
    environment in the main thread, and a process in which it grows meanwhile crashes.
    """
    for variable, value in VARIABLES.items():
        os.environ.setdefault(variable, value)


def _check_sqlite() -> None:
    """See that a sqlite file can be read: MLflow tries to for minutes, with a warning each time."""
    file = store_file()
    if file is None:
        return
    if not file.is_file():
        if file.parent.is_dir() and not os.access(file.parent, os.W_OK):
            raise PermissionError(f"{file} cannot be made: its folder is read-only")
        return
    address = f"{file.as_uri()}?mode=ro"
    try:
        with contextlib.closing(sqlite3.connect(address, SQLITE_SECONDS, uri=True)) as database:
            database.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
    except sqlite3.Error as error:
        raise OSError(f"{file}: {error}") from error


def outages() -> tuple[type[Exception], ...]:
    """Return the errors that mean that the store cannot be used now."""
    from mlflow.exceptions import MlflowException

    errors: tuple[type[Exception], ...] = (
        MlflowException,
        OSError,
    )  # OSError: requests' errors too
    if importlib.util.find_spec("sqlalchemy") is not None:
        from sqlalchemy.exc import SQLAlchemyError

        errors += (SQLAlchemyError,)
    return errors


def metric_key(name: str) -> str:
    """Return a metric's name in the letters that MLflow takes.

    Args:
        name: our name of the metric.
    """
    return re.sub(r"[^\w/. -]", "_", name)


def storable(value: float) -> float:
    """Bound infinities: sqlite keeps them as the largest float, other stores refuse them.

    Args:
        value: a metric's value.
    """
    return math.copysign(1.7e308, value) if math.isinf(value) else value


def stage_logger(folder: RunFolder, cfg: DictConfig) -> Logger | None:
    """Make the logger of a stage's run; Lightning's Trainer takes it.

    The MLflow run is kept in the run folder's `mlflow.json`: a resumed run goes on in it. The
    store is first asked for when there is something to send, and never by this thread.

    Args:
        folder: the run's folder.
        cfg: its resolved configuration.

    Returns:
        The logger; None when `tracking.name` is `none`.
    """
    check_tracking(cfg)
    if cfg.tracking.name != "mlflow":
        return None
    from qk_lightning.tracking.mlflow_logger import StageLogger

    return StageLogger(folder, cfg)


def finish(loggers: Iterable[object]) -> None:
    """Send the files of a run that has ended well, and what else is left; close its MLflow run.

    Args:
        loggers: the run's loggers; those that show nothing in MLflow are passed over.
    """
    for logger in loggers:
        if isinstance(logger, Finishes):
            logger.finish()


def prepare_store(experiment: str) -> str:
    """Make the store and the experiment ahead of many runs.

    Args:
        experiment: name of the experiment.

    Returns:
        "", or why the store cannot be used now: the runs themselves need none.
    """
    try:
        ensure_store(experiment)
    except outages() as error:
        return reason(error)
    return ""


def reason(error: Exception) -> str:
    """Return the first line of an outage's error, cut short.

    Args:
        error: one of `outages`.
    """
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:300]


def standing_run(client: MlflowClient, record: dict[str, Any]) -> str | None:
    """Return the MLflow run that was recorded, if this store still has it.

    Args:
        client: a client of the store.
        record: what `mlflow.json` holds: `uri` and `run_id`.
    """
    from mlflow.exceptions import MlflowException

    if record.get("uri") != store_uri() or "run_id" not in record:
        return None
    try:
        run = client.get_run(record["run_id"])
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    return None if run.info.lifecycle_stage == "deleted" else str(run.info.run_id)
