"""Where the MLflow store is, and making it so that no two processes make it together.

The store is `$MLFLOW_TRACKING_URI`, else one sqlite file under `runs/mlflow`. The run folder is
the truth; losing the store loses a view.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from omegaconf import DictConfig

from qk_lightning.config.errors import ConfigError, Problem
from qk_lightning.config.locks import FolderLock
from qk_lightning.config.paths import runs_root
from qk_lightning.config.run_folder import RunFolder
from qk_lightning.tracking.sample_grid import write_sample_grid

if TYPE_CHECKING:
    from lightning.pytorch.loggers import MLFlowLogger
    from mlflow.tracking import MlflowClient

DATABASES = ("postgresql", "mysql", "mssql")  # beside sqlite, whose driver comes with Python
SQLITE = "sqlite:///"
VARIABLE = "MLFLOW_TRACKING_URI"
RECORD = "mlflow.json"
# Without status.json: it says `running` until all of this is stored.
RUN_FILES = (
    "config.yaml", "metrics.csv", "parameters.json", "provenance.json", "sources.json",
    "weights.json", "parent.json",
)  # fmt: skip
SAMPLES = "samples"
GRID = "final.png"
MAX_METRICS = 1000  # a call takes no more
RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
log = logging.getLogger("qk_lightning")


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
        _check_address(uri)


def _check_address(uri: str) -> None:
    """See that an address is whole, and that the driver of its database is installed."""
    fix = f"{VARIABLE}=sqlite:////absolute/path/mlflow.db, or leave it unset"
    try:
        parts = urlsplit(uri)
        if parts.scheme in ("http", "https") and not (parts.hostname and parts.port != 0):
            raise ValueError("no server is named")
    except ValueError as error:
        raise ConfigError(Problem(VARIABLE, uri, f"a whole address ({error})", fix)) from error
    if parts.scheme.partition("+")[0] not in DATABASES:
        return
    try:
        from sqlalchemy.engine import make_url

        make_url(uri).get_dialect().import_dbapi()
    except ImportError as error:
        fix = f"pip install what is missing, or {fix}"
        expected = f"a database whose driver is installed ({error})"
        raise ConfigError(Problem(VARIABLE, uri, expected, fix)) from error
    except _no_address() as error:
        raise ConfigError(Problem(VARIABLE, uri, f"a whole address ({error})", fix)) from error


def _no_address() -> type[Exception]:
    from sqlalchemy.exc import SQLAlchemyError

    return SQLAlchemyError


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
    """Return a client of the store.

    Raises:
        ConfigError: MLflow is not installed.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    try:
        from mlflow.tracking import MlflowClient
    except ImportError as error:
        fix = "pip install mlflow, or turn tracking off: tracking.name=none"
        problem = Problem("tracking.name", "mlflow", "an installed mlflow", fix)
        raise ConfigError(problem) from error
    return MlflowClient(store_uri())


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


def stage_logger(folder: RunFolder, cfg: DictConfig) -> MLFlowLogger | None:
    """Make the logger of a stage's run; Lightning's Trainer takes it.

    The MLflow run is kept in the run folder's `mlflow.json`: a resumed run goes on in it.

    Args:
        folder: the run's folder.
        cfg: its resolved configuration.

    Returns:
        The logger; None when `tracking.name` is `none`, and when the store's file cannot be
        used (the log says so: the run itself needs no store).
    """
    check_tracking(cfg)
    if cfg.tracking.name != "mlflow":
        return None
    os.environ.setdefault(RETRIES, "2")  # MLflow's seven would hold training up for minutes
    from qk_lightning.tracking.mlflow_logger import StageLogger

    try:
        if store_folder() is not None:
            ensure_store(cfg.tracking.experiment)  # the client's constructor would make the file
        return StageLogger(folder, cfg)
    except outages() as error:
        log.warning("%s is not shown in MLflow (%s): %s", folder.name, store_uri(), error)
        return None


def standing_run(client: MlflowClient, record: dict[str, Any]) -> str | None:
    """Return the MLflow run that was recorded, if this store still has it.

    Args:
        client: a client of the store.
        record: what `mlflow.json` holds: `uri` and `run_id`.
    """
    from mlflow.exceptions import MlflowException

    if record.get("uri") != store_uri():
        return None
    try:
        run = client.get_run(record["run_id"])
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    return None if run.info.lifecycle_stage == "deleted" else str(run.info.run_id)


def log_run_artifacts(folder: RunFolder) -> None:
    """Put a run's small files and its pictures into its MLflow run.

    A store that cannot be reached is a warning in the log: the files stand in the run folder.

    Args:
        folder: the run; one that was not tracked in this store is left alone.
    """
    record = folder.read_json(RECORD)
    if not record:
        return
    client = make_client()
    try:
        _log_run_artifacts(client, folder, record)
    except outages() as error:
        log.warning("the files of %s are not in MLflow: %s", folder.name, error)


def _log_run_artifacts(client: MlflowClient, folder: RunFolder, record: dict[str, Any]) -> None:
    run_id = standing_run(client, record)
    if run_id is None:
        return
    for file, place in run_files(folder):
        client.log_artifact(run_id, str(file), place)
    with tempfile.TemporaryDirectory() as temporary:
        grid = Path(temporary) / GRID
        if write_sample_grid(grid, {folder.name: folder.samples}):
            client.log_artifact(run_id, str(grid), SAMPLES)


def run_files(folder: RunFolder) -> list[tuple[Path, str | None]]:
    """List the files of a run that MLflow shows, beside the grid of its last samples.

    Args:
        folder: the run.

    Returns:
        Each file with the folder that it stands in there, None for the top.
    """
    named = [folder.path / name for name in RUN_FILES]
    found: list[tuple[Path, str | None]] = [(file, None) for file in named if file.is_file()]
    return found + [(picture, SAMPLES) for picture in sorted(folder.samples.glob("*.png"))]
