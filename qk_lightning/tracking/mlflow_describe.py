"""What MLflow shows of a run besides its metrics: parameters, tags, the configuration.

Needs no Lightning: the logger of a run that trains and `qk track` both use it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from omegaconf import DictConfig

from qk_lightning.config.run_folder import RunFolder
from qk_lightning.tracking.settings import SETTINGS, first_values, flat_values, settings_tags

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

MAX_PARAMS = 100  # a call takes no more
MAX_CHARACTERS = 500


def describe_run(client: MlflowClient, run_id: str, folder: RunFolder, cfg: DictConfig) -> None:
    """Log a run's parameters, tags and configuration; twice the same does no harm.

    MLflow refuses another value for a parameter that it has: a run that goes on with other
    settings keeps those that it began with there, and has tags that say what changed.

    Args:
        client: a client of the store.
        run_id: the MLflow run.
        folder: the run's folder.
        cfg: its resolved configuration.
    """
    from mlflow.entities import Param, RunTag

    there = client.get_run(run_id).data.params
    wanted = params_of(folder, cfg)
    params = [Param(key, value) for key, value in wanted.items() if key not in there]
    for start in range(0, len(params), MAX_PARAMS):
        client.log_batch(run_id, params=params[start : start + MAX_PARAMS])
    tags = [RunTag(key, value) for key, value in tags_of(folder, cfg).items()]
    client.log_batch(run_id, tags=tags)
    for name in ("config.yaml", SETTINGS):
        if (folder.path / name).is_file():
            client.log_artifact(run_id, str(folder.path / name))


def tags_of(folder: RunFolder, cfg: DictConfig) -> dict[str, str]:
    """Return the tags that say which run an MLflow run shows, and how its settings changed.

    Args:
        folder: the run's folder.
        cfg: its resolved configuration.
    """
    return {
        "qk.kind": "stage",
        "qk.identity": folder.identity,
        "qk.stage": str(cfg.stage),
        "qk.name": str(cfg.name),
        "qk.folder": str(folder.path),
        **settings_tags(folder),
    }


def params_of(folder: RunFolder, cfg: DictConfig) -> dict[str, str]:
    """Return a run's MLflow parameters: the configuration that it began with.

    Args:
        folder: the run's folder.
        cfg: its resolved configuration.

    Returns:
        Text by dotted key; options that are not set are left out, long values are cut (the whole
        YAML is an artifact).
    """
    values = first_values(folder, flat_values(cfg))
    return {key: str(value)[:MAX_CHARACTERS] for key, value in values.items() if value is not None}
