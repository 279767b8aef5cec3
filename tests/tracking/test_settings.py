"""A run that goes on with other settings says so, and MLflow does not refuse it for that."""

from __future__ import annotations

import json

import pytest
from omegaconf import OmegaConf

from qk_lightning.cli.main import main
from qk_lightning.tracking.mlflow_store import make_client, stage_logger
from qk_lightning.tracking.rebuild import rebuild
from qk_lightning.tracking.settings import SETTINGS, describe_settings, note_settings


def with_devices(folder, devices, **more):
    """Plan the same run with other devices, and return its configuration."""
    cfg = OmegaConf.merge(folder.config, {"trainer": {"devices": devices, **more}})
    folder.create(cfg)
    return folder.config


def test_what_changed_is_kept_with_its_step_and_time(root, make_run):
    folder = make_run(trainer={"max_steps": 10, "devices": 1, "micro_batch_size": None})
    assert note_settings(folder, folder.config, 1, 0) == []
    assert note_settings(folder, with_devices(folder, 2), 2, 4) == [
        "trainer.devices: 1 -> 2 from step 4 on",
        "num_ranks: 1 -> 2 from step 4 on",
    ]
    assert note_settings(folder, folder.config, 2, 6) == []
    note_settings(folder, with_devices(folder, 2, micro_batch_size=8), 2, 8)
    changes = json.loads((folder.path / SETTINGS).read_text())["changes"]
    assert [(item["step"], item["changed"]) for item in changes] == [
        (4, {"trainer.devices": [1, 2], "num_ranks": [1, 2]}),
        (8, {"trainer.micro_batch_size": [None, 8]}),
    ]
    assert changes[0]["when"].startswith("20")


def test_an_option_that_is_new_in_the_kit_is_no_change(root, make_run):
    folder = make_run()
    note_settings(folder, folder.config, 1, 0)
    assert note_settings(folder, with_devices(folder, 1), 1, 4) == []  # there was no `devices`


@pytest.mark.parametrize("text", ["{", "[]", '{"settings": [], "changes": [{"step": 1}, 3]}'])
def test_a_damaged_file_counts_as_missing(root, make_run, text):
    folder = make_run()
    (folder.path / SETTINGS).write_text(text)
    assert describe_settings(folder) == []
    assert note_settings(folder, folder.config, 1, 0) == []
    assert json.loads((folder.path / SETTINGS).read_text())["settings"]["name"] == "stage1"


def test_mlflow_keeps_the_first_settings_and_has_tags_for_the_others(store, make_run, capsys):
    folder = make_run(trainer={"max_steps": 10, "devices": 1})
    for step, devices in ((0, 1), (4, 2), (8, 4)):
        cfg = with_devices(folder, devices)
        note_settings(folder, cfg, devices, step)
        logger = stage_logger(folder, cfg)
        for number in range(step, min(step + 4, 10)):
            folder.append_metrics(number + 1, {"train/loss": 0.5})
            logger.log_metrics({"train/loss": 0.5}, number)
        logger.finish()
    client = make_client()
    run = client.get_run(logger.run_id)
    (only,) = client.search_runs([run.info.experiment_id])
    assert only.data.params["trainer.devices"] == "1"
    tag = "1 -> 2 at step 4; 2 -> 4 at step 8"
    assert only.data.tags["qk.changed.trainer.devices"] == tag
    assert SETTINGS in {item.path for item in client.list_artifacts(logger.run_id)}
    assert len(client.get_metric_history(logger.run_id, "train/loss")) == 10

    folder.write_status(state="done", step=10)
    assert [deed.action for deed in rebuild()] == ["keep"]
    client.delete_run(logger.run_id)
    assert [deed.action for deed in rebuild()] == ["make"]
    assert [deed.action for deed in rebuild()] == ["keep"]
    capsys.readouterr()
    assert main(["runs", "show", folder.name]) == 0
    assert "trainer.devices: 2 -> 4 from step 8 on" in capsys.readouterr().out
