"""A store that is away neither stops nor slows a run, and gets what it missed, once."""

from __future__ import annotations

import contextlib
import os
import resource
import sqlite3
import threading
import time

import pytest
from away_server import broken, hanging, refusing, wait_for

from qk_lightning.cli.main import main
from qk_lightning.tracking import mlflow_sender
from qk_lightning.tracking.mlflow_missed import MISSED
from qk_lightning.tracking.mlflow_store import (
    RECORD,
    VARIABLES,
    make_client,
    stage_logger,
    store_file,
)
from qk_lightning.tracking.rebuild import rebuild

STEPS = 200


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Short pauses, so that an outage takes a second and not minutes."""
    monkeypatch.setattr(mlflow_sender, "PAUSES", (0.2,))
    monkeypatch.setattr(mlflow_sender, "FLUSH_SECONDS", 0.1)
    monkeypatch.setitem(mlflow_sender.LAST_SECONDS, "server", 1.0)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")


def train(folder, logger, first=1, last=10, value=lambda step: 1.0 / step):
    """Log steps as a run does, and return the seconds of the slowest."""
    slowest = 0.0
    for step in range(first, last + 1):
        values = {"train/loss": value(step), "train/lr": 0.5}
        folder.append_metrics(step, values)
        began = time.perf_counter()
        logger.log_metrics(values, step - 1)
        logger.save()
        slowest = max(slowest, time.perf_counter() - began)
    return slowest


def history(run_id, key="train/loss"):
    return [(p.step, p.value) for p in make_client().get_metric_history(run_id, key)]


def steps(run_id):
    return sorted(step for step, _ in history(run_id))


@contextlib.contextmanager
def locked():
    """Hold the sqlite file as another program does that writes to it."""
    with contextlib.closing(sqlite3.connect(store_file(), isolation_level=None)) as database:
        database.execute("BEGIN EXCLUSIVE")
        yield


@pytest.mark.parametrize("away", [refusing, hanging, broken])
def test_a_server_that_is_away_costs_a_run_nothing(
    store, make_run, monkeypatch, caplog, capsys, away
):
    folder = make_run()
    monkeypatch.setattr(mlflow_sender, "MAX_WAITING", STEPS)  # of 2 x STEPS points
    with away() as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        logger = stage_logger(folder, folder.config)
        slowest = train(folder, logger, 1, STEPS)
        if away is not hanging:
            wait_for(lambda: logger.sender._failures > 2)
        began = time.monotonic()
        logger.finish()
        seconds = time.monotonic() - began
    print(f"{away.__name__}: slowest step {1000 * slowest:.2f} ms, end {seconds:.2f} s")
    assert slowest < 0.5
    assert seconds < 3
    assert caplog.text.count("does not answer") == int(away is not hanging)  # once, not each time
    assert caplog.text.count(f"qk track sync {folder.name}") == 1
    assert main(["runs", "show", folder.name]) == 0
    assert f"qk track sync {folder.name}" in capsys.readouterr().out

    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    folder.write_status(state="done", step=STEPS)
    assert main(["track", "sync", "--dry-run"]) == 0
    assert "would make 1" in capsys.readouterr().out
    assert main(["track", "sync", folder.name]) == 0
    assert steps(folder.read_json(RECORD)["run_id"]) == list(range(1, STEPS + 1))
    assert not (folder.path / MISSED).exists()
    assert [deed.action for deed in rebuild()] == ["keep"]


def test_ctrl_c_does_not_wait_for_a_server_that_hangs(store, make_run, monkeypatch):
    folder = make_run()
    with hanging() as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        logger = stage_logger(folder, folder.config)
        train(folder, logger, 1, STEPS)
        began = time.monotonic()
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            logger.finalize("failed")  # as Lightning does, in its handler
        assert time.monotonic() - began < mlflow_sender.STOPPED_SECONDS["server"] + 1
    assert len(folder.metrics()) == 2 * STEPS
    folder.write_status(state="stopped", step=STEPS)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert main(["track", "sync"]) == 0
    run_id = folder.read_json(RECORD)["run_id"]
    assert make_client().get_run(run_id).info.status == "KILLED"
    assert steps(run_id) == list(range(1, STEPS + 1))


def test_a_locked_file_gets_what_it_missed_within_the_run(store, make_run, monkeypatch, caplog):
    monkeypatch.setattr(mlflow_sender, "MAX_WAITING", 6)  # the rest comes from the run folder
    folder = make_run()
    logger = stage_logger(folder, folder.config)
    with locked():
        train(folder, logger, 1, 10)
        wait_for(lambda: logger.sender._failures)
        assert (folder.path / MISSED).exists()
    wait_for(lambda: not logger.sender._failures)
    train(folder, logger, 11, 12)
    logger.finish()
    assert history(logger.run_id) == [(step, 1.0 / step) for step in range(1, 13)]
    assert not (folder.path / MISSED).exists()
    assert caplog.text.count("does not answer") == 1
    assert caplog.text.count("answers again") == 1
    assert "Traceback" not in caplog.text


def test_a_full_disk_under_the_store_is_an_outage(store, make_run):
    folder = make_run()
    logger = stage_logger(folder, folder.config)
    train(folder, logger, 1, 3)
    wait_for(lambda: logger.run_id)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))  # the file has more by now
    try:
        train(folder, logger, 4, 600)
        wait_for(lambda: logger.sender._failures)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    logger.finish()
    assert steps(logger.run_id) == list(range(1, 601))


def test_a_store_in_an_impossible_place_is_an_outage(root, make_run, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////proc/nobody/mlflow.db")
    folder = make_run()
    logger = stage_logger(folder, folder.config)
    train(folder, logger)
    logger.finish()
    assert "does not answer" in caplog.text
    assert len(folder.metrics()) == 20


def test_a_run_that_goes_on_sends_nothing_twice(store, make_run):
    folder = make_run()
    killed = stage_logger(folder, folder.config)
    train(folder, killed, 1, 10)
    wait_for(lambda: killed.run_id and not killed.sender._points)
    wait_for(lambda: len(steps(killed.run_id)) == 10)
    killed.sender._closed = True  # as if killed
    folder.append_metrics(11, {"train/loss": 0.1})  # never sent

    folder.keep_metrics_until(5)
    logger = stage_logger(folder, folder.config)
    train(folder, logger, 6, 12)
    logger.finish()
    folder.write_status(state="done", step=12)
    assert logger.run_id == killed.run_id
    assert steps(logger.run_id) == list(range(1, 13))
    assert [deed.action for deed in rebuild()] == ["keep"]


def test_what_comes_out_otherwise_counts_as_it_is_in_the_folder(store, make_run):
    folder = make_run()
    killed = stage_logger(folder, folder.config)
    train(folder, killed, 1, 6)
    wait_for(lambda: killed.run_id and len(steps(killed.run_id)) == 6)
    killed.sender._closed = True
    folder.keep_metrics_until(5)
    logger = stage_logger(folder, folder.config)
    train(folder, logger, 6, 7, lambda step: 2.0)  # as other devices may
    logger.finish()
    folder.write_status(state="done", step=7)
    assert history(logger.run_id)[5:] == [(6, 1.0 / 6), (6, 2.0), (7, 2.0)]
    assert [deed.action for deed in rebuild()] == ["keep"]


def test_what_a_killed_run_never_sent_goes_with_its_resume(store, make_run, monkeypatch):
    folder = make_run()
    with refusing() as address, monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", address)
        away = stage_logger(folder, folder.config)
        train(folder, away, 1, 5)
        wait_for(lambda: away.sender._failures)
        away.sender._closed = True
    logger = stage_logger(folder, folder.config)
    train(folder, logger, 6, 8)
    logger.finish()
    assert history(logger.run_id) == [(step, 1.0 / step) for step in range(1, 9)]


def test_the_sending_thread_never_changes_the_environment(store, make_run, monkeypatch):
    """Libraries that read it in the main thread without Python's lock would crash."""
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    threads = []
    plain = os.putenv
    monkeypatch.setattr(
        os, "putenv", lambda *a: threads.append(threading.current_thread()) or plain(*a)
    )
    folder = make_run()
    logger = stage_logger(folder, folder.config)
    train(folder, logger)
    logger.finish()
    assert steps(logger.run_id) == list(range(1, 11))
    assert set(threads) == {threading.main_thread()}
