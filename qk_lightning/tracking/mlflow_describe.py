"""What MLflow shows of a run besides its metrics: parameters, tags, the configuration.

Needs no Lightning: the logger of a run that trains and `qk track rebuild` both use it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from qk_lightning.config.run_folder import RunFolder

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

MAX_PARAMS = 100  # a call takes no more
MAX_CHARACTERS = 500


def describe_run(client: MlflowClient, run_id: str, folder: RunFolder, cfg: DictConfig) -> None:
    """Log a run's parameters, tags and configuration; twice the same does no harm.

    Args:
        client: a client of the store.
        run_id: the MLflow run.
        folder: the run's folder.
        cfg: its resolved configuration.
    """
    from mlflow.entities import Param, RunTag

    params = [Param(key, value) for key, value in flat_params(cfg).items()]
    for start in range(0, len(params), MAX_PARAMS):
        client.log_batch(run_id, params=params[start : start + MAX_PARAMS])
    tags = [RunTag(key, value) for key, value in tags_of(folder, cfg).items()]
    client.log_batch(run_id, tags=tags)
    client.log_artifact(run_id, str(folder.path / "config.yaml"))


def tags_of(folder: RunFolder, cfg: DictConfig) -> dict[str, str]:
    """Return the tags that say which run an MLflow run shows.

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
    }


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
        """Gather the leaves below a prefix under their dotted names."""
        for key, value in values.items():
            if isinstance(value, dict):
                walk(f"{prefix}{key}.", value)
            elif value is not None:
                flat[f"{prefix}{key}"] = str(value)[:MAX_CHARACTERS]

    walk("", OmegaConf.to_container(cfg, resolve=True))  # type: ignore[arg-type]
    return flat
