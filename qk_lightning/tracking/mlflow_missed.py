"""The mark of a run that MLflow does not show in full: `mlflow_missed.json` of its folder.

It stands there from before the MLflow run is made, or from the start of an outage, until all was
sent: whatever ends the process in between, the mark says so. Needs no MLflow.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from uuid import uuid4

from qk_lightning.config.atomic import write_json
from qk_lightning.config.run_folder import RunFolder

MISSED = "mlflow_missed.json"


def note_missed(run: RunFolder, why: str) -> str:
    """Mark a run; one that is marked keeps its time and its token.

    Args:
        run: the run's folder.
        why: the reason, for people.

    Returns:
        A token. An MLflow run made from here on carries it: where the store made the run and
        could not answer, the next try finds it and makes no second one.
    """
    before = run.read_json(MISSED)
    since = str(before.get("since") or datetime.now(UTC).isoformat(timespec="seconds"))
    token = str(before.get("token") or uuid4().hex)
    write_json(run.path / MISSED, {"since": since, "why": why, "token": token})
    return token


def forget_missed(run: RunFolder) -> None:
    """Take the mark away: MLflow shows all of the run.

    Args:
        run: the run's folder.
    """
    (run.path / MISSED).unlink(missing_ok=True)


def count_missed(runs: Iterable[RunFolder]) -> int:
    """Count the runs that MLflow does not show in full.

    Args:
        runs: the runs' folders.
    """
    return sum((run.path / MISSED).is_file() for run in runs)


def describe_missed(run: RunFolder) -> str:
    """Say that MLflow lacks some of a run, and how it gets there; "" where it does not.

    Args:
        run: the run's folder.
    """
    if not (run.path / MISSED).is_file():
        return ""
    since = run.read_json(MISSED).get("since", "?")
    return f"MLflow lacks some of this run since {since}; send it: qk track sync {run.name}"
