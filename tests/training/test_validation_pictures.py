"""Pictures at each validation: drawn, shown, and without any effect on what is trained."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from qk_lightning.config.chain import plan_chain
from qk_lightning.config.run_folder import RunFolder
from qk_lightning.sweeps.stage import run_stage
from qk_lightning.tracking import mlflow_store
from qk_lightning.tracking.mlflow_store import RECORD, make_client
from qk_lightning.tracking.rebuild import rebuild
from qk_lightning.training.callbacks import RunFolderLogger

pytestmark = pytest.mark.usefixtures("tiny_presets")


class PictureLogger(RunFolderLogger):
    """A logger that notes the pictures it is shown."""

    def __init__(self, run: RunFolder) -> None:
        super().__init__(run)
        self.shown: list[Path] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Leave the metrics to the other logger."""

    def log_picture(self, picture: Path) -> None:
        """Note a picture."""
        self.shown.append(picture)


def train(*overrides: str) -> tuple[RunFolder, list[dict[str, object]]]:
    messages: list[dict[str, object]] = []
    run = plan_chain("tiny/stage1", ["validation.every=2", *overrides])[-1].write()
    run_stage(run.path, messages.append)
    return run, messages


@pytest.mark.slow
def test_each_validation_draws_and_training_stays_the_same(monkeypatch) -> None:
    loggers: list[PictureLogger] = []

    def stage_logger(folder: RunFolder, cfg: object) -> PictureLogger:
        loggers.append(PictureLogger(folder))
        return loggers[-1]

    monkeypatch.setattr(mlflow_store, "stage_logger", stage_logger)
    run, messages = train("validation.num_grid=2")
    pictures = sorted(run.samples.glob("*.png"))
    assert [picture.name for picture in pictures] == ["step_000002.png", "step_000004.png"]
    assert loggers[0].shown == pictures
    assert len(Image.open(pictures[0]).convert("RGB").getcolors(10**6)) > 50  # no empty grid
    assert pictures[0].read_bytes() != pictures[1].read_bytes()
    assert "seconds_left" in messages[0]
    assert messages[-1]["phase"] == "saving and scoring"

    without, _ = train("validation.num_grid=0")
    assert not list(without.samples.glob("*.png"))
    losses = [
        [(row["step"], row["value"]) for row in one.metrics() if row["metric"] == "train/loss"]
        for one in (run, without)
    ]
    assert losses[0] == losses[1]


@pytest.mark.slow
def test_mlflow_shows_them_and_a_rebuild_agrees_with_a_real_run(root: Path) -> None:
    run, _ = train("tracking.name=mlflow")
    client = make_client()
    run_id = run.read_json(RECORD)["run_id"]
    files = {item.path for item in client.list_artifacts(run_id, "samples")}
    assert files == {"samples/final.png", "samples/step_000002.png", "samples/step_000004.png"}
    assert [(deed.action, deed.why) for deed in rebuild()] == [("keep", "")]
