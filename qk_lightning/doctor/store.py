"""The MLflow store: its address, whether it answers, and what it lacks."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from qk_lightning.config.errors import ConfigError
from qk_lightning.config.find_runs import list_runs
from qk_lightning.doctor.finding import Finding
from qk_lightning.tracking.mlflow_store import (
    RECORD,
    RETRIES,
    VARIABLE,
    check_store,
    make_client,
    outages,
    store_file,
    store_uri,
)

NOTHING_YET = "nothing tracked yet; the first run makes it"
TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"


def check_address() -> Iterator[Finding]:
    """Look at the address, and into a store that is a sqlite file; imports no MLflow.

    Yields:
        The address, then what a sqlite store holds.
    """
    uri, file = store_uri(), store_file()
    origin = f" (${VARIABLE})" if os.environ.get(VARIABLE) else ""
    try:
        check_store()
    except ConfigError as error:
        problem = error.problems[0]
        text = f"{uri}{origin}: expected {problem.expected}"
        yield Finding("address", "missing", text, problem.fix)
        return
    yield Finding("address", "ok", f"{uri}{origin}")
    if file is None:
        return
    if not file.is_file():
        has_runs = any(run.is_done and run.read_json(RECORD) for run in list_runs())
        lost = "gone, though runs were tracked"
        text, fix = (lost, "qk track rebuild") if has_runs else (NOTHING_YET, "")
        yield Finding("store", "note" if has_runs else "ok", text, fix)
        return
    yield _sqlite(file)


def _sqlite(file: Path) -> Finding:
    try:
        with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as database:
            rows = database.execute("SELECT run_uuid FROM runs WHERE lifecycle_stage = 'active'")
            known = {str(row[0]) for row in rows}
    except sqlite3.Error as error:
        fix = f"move {file} away, then qk track rebuild"
        return Finding("store", "missing", f"cannot be read: {error}", fix)
    records = [run.read_json(RECORD) for run in list_runs() if run.is_done]
    ours = [record for record in records if record.get("uri") == store_uri()]
    gone = sum(record["run_id"] not in known for record in ours)
    text = f"{len(known)} MLflow runs, readable"
    if gone:
        return Finding(
            "store", "note", f"{text}; {gone} finished runs are not in it", "qk track rebuild"
        )
    return Finding("store", "ok", text)


def check_remote() -> Iterator[Finding]:
    """Ask a store that is no sqlite file how many runs it has; imports MLflow.

    Yields:
        One finding, none for a sqlite file.
    """
    if store_file() is not None:
        return
    os.environ.setdefault(RETRIES, "1")
    os.environ.setdefault(TIMEOUT, "10")
    try:
        check_store()
        client = make_client()
        failures = outages()
    except (ConfigError, ImportError):  # said before
        return
    try:
        experiments = [item.experiment_id for item in client.search_experiments()]
        runs = client.search_runs(experiments, max_results=1000) if experiments else []
    except failures as error:
        fix = f"start the server, or unset {VARIABLE}; runs train without it all the same"
        yield Finding("store", "missing", f"does not answer: {str(error).splitlines()[0]}", fix)
        return
    yield Finding("store", "ok", f"{len(runs)}{' or more' * (len(runs) == 1000)} MLflow runs")
