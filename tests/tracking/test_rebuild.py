"""MLflow is a view: it can be lost and made anew from the run folders."""

from __future__ import annotations

import json
import shutil
import time

import pytest
from away_server import wait_for
from PIL import Image

from qk_lightning.cli.main import main
from qk_lightning.tracking.mlflow_evaluation import log_evaluation
from qk_lightning.tracking.mlflow_files import TOKEN
from qk_lightning.tracking.mlflow_runs import PARENT, is_logged, log_sweep
from qk_lightning.tracking.mlflow_store import (
    RECORD,
    make_client,
    stage_logger,
    store_file,
)
from qk_lightning.tracking.rebuild import rebuild

OURS = ("mlflow.note.content", TOKEN)  # with ids of the MLflow runs


def finish(folder, step=10):
    started, finished = "2026-01-01T10:00:00+00:00", "2026-01-01T10:05:00+00:00"
    folder.write_status(state="done", step=step, started=started, finished=finished)


def train(folder):
    """What a run writes while it trains: metrics to its folder and to MLflow, then its files."""
    logger = stage_logger(folder, folder.config)
    for step in range(10):
        values = {"train/loss": 1.0 / (3 + step), "eval/weird (%)": float("inf"), "epoch": 0.0}
        folder.append_metrics(step + 1, {k: v for k, v in values.items() if k != "epoch"})
        logger.log_metrics(values, step)
    folder.append_metrics(10, {"val/loss": float("nan"), "eval/scenes/colours": 0.25})
    logger.log_metrics({"val/loss": float("nan"), "eval/scenes/colours": 0.25}, 9)
    final = folder.samples / "final"
    final.mkdir(parents=True)
    (final / "prompts.json").write_text(json.dumps([{"id": "a", "task": "edit", "prompt": "hat"}]))
    Image.new("RGB", (8, 8)).save(final / "a.png")
    Image.new("RGB", (8, 8)).save(folder.samples / "step_000005.png")
    folder.provenance_json.write_text("{}")
    logger.finish()
    finish(folder)
    return logger.run_id


def evaluate(folder, value=0.5):
    summary = {"suite": "scenes", "metrics": {"eval/scenes/colours": {"value": value}}}
    place = folder.path / "evaluations/scenes"
    place.mkdir(parents=True, exist_ok=True)
    (place / "summary.json").write_text(json.dumps(summary))
    log_evaluation(folder, summary, place)


def make_sweep(root, folder):
    sweep = root / "runs/sweeps/widths"
    sweep.mkdir(parents=True)
    row = {"stage": "stage1", "row": "width=4", "values": {"width": 4}, "control": False}
    entry = {"folder": str(folder.path), "stage": "stage1", "members": ["width=4 seed 0"]}
    result = {
        "inputs": "abc",
        "name": "widths",
        "experiment": "lab",
        "summary": "width=4  0.25",
        "axes": {"width": [1, 4]},
        "table": [{**row, "metrics": {"val/loss": {"mean": 0.25}}}],
        "runs": [entry],
    }
    (sweep / "result.json").write_text(json.dumps(result))
    log_sweep(str(sweep))
    return sweep


def view():
    """Everything that MLflow shows, without its own ids and times."""
    client = make_client()
    experiments = [item.experiment_id for item in client.search_experiments()]
    shown = {}
    for run in client.search_runs(experiments):
        run_id = run.info.run_id
        histories = {
            key: sorted(
                (point.step, repr(point.value)) for point in client.get_metric_history(run_id, key)
            )
            for key in run.data.metrics
        }
        tags = {k: v.replace(run_id, "ID") for k, v in run.data.tags.items() if k not in OURS}
        if PARENT in tags:
            tags[PARENT] = client.get_run(tags[PARENT]).info.run_name
        shown[run.info.run_name] = {
            "params": run.data.params,
            "histories": histories,
            "latest": {key: repr(value) for key, value in run.data.metrics.items()},
            "tags": tags,
            "files": sorted(files(client, run_id)),
            "status": run.info.status,
        }
    return shown


def files(client, run_id, place=None):
    for item in client.list_artifacts(run_id, place):
        yield from files(client, run_id, item.path) if item.is_dir else [item.path]


def lose(template):
    """Put an empty store in the place of the one that stands: making one takes seconds."""
    shutil.rmtree(store_file().parent / "artifacts")
    # The same file, since MLflow keeps it open as long as the process lives.
    shutil.copyfile(template, store_file())


def actions(deeds):
    return {deed.name: deed.action for deed in deeds}


def test_a_lost_store_is_made_anew_with_the_same_content(store, make_run, template):
    folder = make_run()
    train(folder)
    evaluate(folder)
    make_sweep(store, folder)
    before = view()
    assert before[folder.name]["histories"]["train/loss"][0] == (1, repr(1.0 / 3))
    assert before[folder.name]["latest"]["eval/scenes/colours"] == "0.25"  # of the run's end
    assert before[folder.name]["latest"]["evaluate/scenes/colours"] == "0.5"
    assert "samples/final.png" in before[folder.name]["files"]

    lose(template)
    assert view() == {}
    assert actions(rebuild(dry_run=True)) == {folder.name: "make", "sweep widths": "make"}
    assert view() == {}
    assert actions(rebuild()) == {folder.name: "make", "sweep widths": "make"}
    assert view() == before
    note = (
        make_client()
        .search_runs(
            [make_client().get_experiment_by_name("lab").experiment_id], "tags.`qk.kind` = 'sweep'"
        )[0]
        .data.tags["mlflow.note.content"]
    )
    assert folder.read_json(RECORD)["run_id"] in note

    assert set(actions(rebuild()).values()) == {"keep"}
    assert view() == before


def test_what_is_missing_is_added_and_what_contradicts_is_made_anew(store, make_run):
    folder = make_run()
    run_id = train(folder)
    folder.append_metrics(10, {"eval/new": 0.5})
    assert actions(rebuild()) == {folder.name: "complete"}
    assert folder.read_json(RECORD)["run_id"] == run_id
    assert view()[folder.name]["latest"]["eval/new"] == "0.5"

    text = (folder.path / "metrics.csv").read_text().replace("eval/new,0.5", "eval/new,0.75")
    (folder.path / "metrics.csv").write_text(text)
    (deed,) = rebuild()
    assert (deed.action, deed.why) == ("make anew", "differs in eval/new")
    assert folder.read_json(RECORD)["run_id"] != run_id
    assert view()[folder.name]["histories"]["eval/new"] == [(10, "0.75")]
    assert actions(rebuild()) == {folder.name: "keep"}


def test_runs_that_are_not_done_or_not_tracked_are_left_alone(store, make_run):
    going, untracked = (
        make_run("going-0000000001"),
        make_run("quiet-0000000002", tracking={"name": "none", "experiment": "lab"}),
    )
    finish(untracked)
    done = make_run("done-0000000003")
    finish(done)
    going.write_status(state="running")
    with going.lock(), done.lock():
        deeds = {deed.name: deed for deed in rebuild()}
    assert {deed.action for deed in deeds.values()} == {"leave"}
    assert deeds[going.name].why.startswith("running")
    assert "in use" in deeds[done.name].why
    assert not (going.path / RECORD).exists()
    assert actions(rebuild())[done.name] == "make"


def test_a_sweep_of_a_lost_store_is_not_taken_for_shown(store, make_run):
    folder = make_run()
    train(folder)
    sweep = make_sweep(store, folder)
    assert is_logged(sweep, "abc")
    store_file().unlink()
    assert not is_logged(sweep, "abc")


def test_the_command_says_what_it_did(store, make_run, capsys):
    train(make_run())
    assert main(["track", "rebuild"]) == 0
    said = capsys.readouterr().out
    assert "keep       stage1-0123456789" in said
    assert "keep 1" in said


def test_a_dry_run_makes_no_store(root, make_run, capsys):
    finish(make_run())
    assert main(["track", "rebuild", "--dry-run"]) == 0
    assert "would make 1" in capsys.readouterr().out
    assert not store_file().exists()


def test_a_store_that_does_not_answer_is_said_in_a_line(root, make_run, capsys, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    finish(make_run())
    (make_run().path / RECORD).write_text(
        json.dumps({"uri": "http://127.0.0.1:9", "run_id": "0" * 32, "experiment_id": "1"})
    )
    began = time.monotonic()
    assert main(["track", "rebuild"]) == 1
    assert "cannot be used" in capsys.readouterr().err
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("words", [["ui"], ["track", "rebuild"]])
def test_without_mlflow_the_way_out_is_said(root, words, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(words) == 2
    assert "pip install mlflow" in capsys.readouterr().err


def test_a_killed_run_is_no_longer_shown_as_running(store, make_run):
    run = make_run("gone-0000000001")
    logger = stage_logger(run, run.config)
    logger.log_metrics({"train/loss": 1.0}, 0)
    wait_for(lambda: logger.run_id)
    logger.sender._closed = True  # as if killed
    run.write_status(state="running", step=1)  # and nobody holds its lock
    client = make_client()
    assert client.get_run(logger.run_id).info.status == "RUNNING"
    (deed,) = rebuild(dry_run=True)
    assert (deed.action, client.get_run(logger.run_id).info.status) == ("complete", "RUNNING")
    rebuild()
    assert client.get_run(logger.run_id).info.status == "KILLED"
    assert [deed.action for deed in rebuild()] == ["leave"]
