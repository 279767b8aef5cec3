"""The MLflow view of runs and sweeps: made once, gone on with, never the truth."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from away_server import wait_for
from omegaconf import OmegaConf
from PIL import Image

from qk_lightning.config.errors import ConfigError
from qk_lightning.tracking import mlflow_store
from qk_lightning.tracking.mlflow_missed import MISSED
from qk_lightning.tracking.mlflow_runs import is_logged, log_sweep
from qk_lightning.tracking.mlflow_store import (
    check_tracking,
    ensure_store,
    make_client,
    stage_logger,
    store_uri,
)


def test_the_variable_wins(root, monkeypatch):
    assert store_uri() == f"sqlite:///{root}/runs/mlflow/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.lab")
    assert store_uri() == "https://mlflow.lab"


def test_no_tracking_needs_no_mlflow(root, make_run):
    folder = make_run(tracking={"name": "none", "experiment": "lab"})
    assert stage_logger(folder, folder.config) is None
    assert not (root / "runs/mlflow").exists()


def test_missing_mlflow_is_said_with_the_way_out(root, monkeypatch):
    monkeypatch.setattr(mlflow_store.importlib.util, "find_spec", lambda name: None)
    cfg = OmegaConf.create({"tracking": {"name": "mlflow"}})
    with pytest.raises(ConfigError, match="tracking.name=none"):
        check_tracking(cfg)


@pytest.mark.parametrize("uri", ["file:./mlruns", "mlruns"])
def test_a_store_of_files_is_refused_before_anything_starts(monkeypatch, uri):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(ConfigError, match="sqlite:////absolute"):
        check_tracking(OmegaConf.create({"tracking": {"name": "mlflow"}}))


@pytest.mark.slow
def test_processes_that_make_the_store_together_all_get_it(root):
    code = "from qk_lightning.tracking.mlflow_store import ensure_store; print(ensure_store('lab'))"
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    together = [subprocess.Popen([sys.executable, "-c", code], **options) for _ in range(2)]
    ended = [process.communicate() for process in together]
    assert [process.returncode for process in together] == [0, 0], ended
    assert ended[0][0] == ended[1][0]


def test_a_stage_is_logged_and_a_resume_goes_on_in_the_same_run(store, make_run):
    folder = make_run()
    logger = stage_logger(folder, folder.config)
    for step in range(10):
        logger.log_metrics({"train/loss": 1.0 / (1 + step), "val/loss": float("inf")}, step)
        logger.save()  # Lightning does after each step
    logger.log_hyperparams({"connector": "something else"})
    logger.finalize("success")  # of training; scores come yet
    logger.finish()
    assert make_client().get_run(logger.run_id).info.status == "FINISHED"
    assert not (folder.path / MISSED).exists()

    resumed = stage_logger(folder, folder.config)
    resumed.log_metrics({"train/loss": 0.05}, 10)
    wait_for(lambda: resumed.run_id)
    assert make_client().get_run(resumed.run_id).info.status == "RUNNING"
    resumed.finish()
    assert resumed.run_id == logger.run_id
    run = make_client().get_run(logger.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["connector.num_layers"] == "2"
    assert run.data.tags["qk.identity"] == "0123456789"
    history = make_client().get_metric_history(logger.run_id, "train/loss")
    assert [point.step for point in history] == list(range(1, 12))


def test_a_run_that_was_stopped_is_killed_and_not_failed(store, make_run):
    logger = stage_logger(make_run(), make_run().config)
    logger.log_metrics({"train/loss": 1.0}, 0)
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        logger.finalize("failed")  # as Lightning does, in its handler
    assert make_client().get_run(logger.run_id).info.status == "KILLED"


def test_a_run_that_the_store_lost_is_made_anew(store, make_run):
    folder = make_run()
    record = {"uri": store_uri(), "experiment_id": "1", "run_id": "0" * 32}
    (folder.path / "mlflow.json").write_text(json.dumps(record))
    logger = stage_logger(folder, folder.config)
    logger.log_metrics({"train/loss": 1.0}, 0)
    logger.finish()
    assert logger.run_id != record["run_id"]
    assert make_client().get_run(logger.run_id).data.metrics == {"train/loss": 1.0}


def test_artifacts_of_a_run(store, make_run):
    folder = make_run()
    final = folder.samples / "final"
    final.mkdir(parents=True)
    items = [{"id": "a", "task": "editing", "prompt": "a hat"}]
    (final / "prompts.json").write_text(json.dumps(items))
    Image.new("RGB", (8, 8)).save(final / "a.png")
    folder.provenance_json.write_text("{}")
    logger = stage_logger(folder, folder.config)
    logger.log_metrics({"train/loss": 1.0}, 1)
    logger.finish()
    client = make_client()
    names = {item.path for item in client.list_artifacts(logger.run_id)}
    assert names == {"config.yaml", "provenance.json", "samples"}  # status.json says running yet
    assert [item.path for item in client.list_artifacts(logger.run_id, "samples")] == [
        "samples/final.png"
    ]
    place = client.get_run(logger.run_id).info.artifact_uri
    assert place.startswith(f"file://{store}/runs/mlflow/artifacts")


def test_a_sweep_is_one_run_with_its_table_and_links(store, make_run):
    folder = make_run()
    logger = stage_logger(folder, folder.config)
    logger.log_metrics({"train/loss": 1.0}, 0)
    logger.finish()
    stage_run = logger.run_id
    sweep = store / "runs/sweeps/widths"
    sweep.mkdir(parents=True)
    row = {
        "stage": "stage1",
        "row": "width=4",
        "values": {"width": 4},
        "control": False,
        "metrics": {"val/loss": {"mean": 0.25}, "eval/x": None},
    }
    result = {
        "inputs": "abc",
        "name": "widths",
        "experiment": "lab",
        "summary": "width=4  0.25 ± 0.01",
        "axes": {"width": [1, 4]},
        "table": [row, {**row, "row": "both", "control": True}],
        "runs": [{"folder": str(folder.path), "stage": "stage1", "members": ["width=4 seed 0"]}],
    }
    (sweep / "result.json").write_text(json.dumps(result))
    (sweep / "report.md").write_text("# Sweep")
    run_id = log_sweep(str(sweep))
    assert log_sweep(str(sweep)) == run_id
    assert is_logged(sweep, "abc")
    assert not is_logged(sweep, "abd")
    client = make_client()
    data = client.get_run(run_id).data
    assert data.metrics == {"stage1/val/loss": 0.25, "stage1/val/loss/both": 0.25}
    assert client.get_metric_history(run_id, "stage1/val/loss")[0].step == 4
    assert stage_run in data.tags["mlflow.note.content"]
    tags = client.get_run(stage_run).data.tags
    assert tags["qk.sweep.widths"] == "width=4 seed 0"
    assert tags["mlflow.parentRunId"] == run_id
    client.delete_run(run_id)  # shown anew, it has its children again
    anew = log_sweep(str(sweep))
    assert anew != run_id
    assert client.get_run(stage_run).data.tags["mlflow.parentRunId"] == anew
    names = {item.path for item in client.list_artifacts(run_id)}
    assert names == {"report.md", "table.html", "runs.json"}


def test_a_deleted_experiment_comes_back(store):
    client = make_client()
    client.delete_experiment(ensure_store("default_experiment"))
    again = ensure_store("default_experiment")
    assert client.get_experiment(again).lifecycle_stage == "active"


@pytest.mark.parametrize(
    "address", ["http://[bad", "http://", "https://h:99999", "mysql+nodb://h/d"]
)
def test_an_address_that_cannot_work_is_refused_before_anything_runs(address, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_URI"):
        mlflow_store.check_store()


@pytest.mark.slow
def test_a_run_without_tracking_trains_where_mlflow_is_not_installed(tiny_presets):
    code = "import sys; sys.modules['mlflow'] = None\n"
    code += "from qk_lightning.cli.main import main\n"
    words = ["all.validation.num_images=0", "all.tracking.name=none", "all.max_steps=2"]
    code += f"sys.exit(main({['fit', 'tiny/stage1', *words]!r}))"
    subprocess.run([sys.executable, "-c", code], check=True)
