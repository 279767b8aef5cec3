"""An MLflow store for each test, copied from one that is made once: making one takes seconds."""

from __future__ import annotations

import shutil

import pytest
from omegaconf import OmegaConf

from qk_lightning.config.run_folder import RunFolder
from qk_lightning.tracking.mlflow_store import ensure_store


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    """The database of an empty store with the experiment `default_experiment`."""
    root = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QK_ROOT", str(root))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        ensure_store("default_experiment")
    return root / "runs/mlflow/mlflow.db"


@pytest.fixture
def root(tmp_path, monkeypatch):
    """An empty project."""
    monkeypatch.setenv("QK_ROOT", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "runs").mkdir()
    return tmp_path


@pytest.fixture
def store(root, template):
    """A project whose store exists."""
    (root / "runs/mlflow").mkdir()
    shutil.copy(template, root / "runs/mlflow/mlflow.db")
    return root


@pytest.fixture
def make_run(root):
    """Make a run folder that is planned."""

    def make(name="stage1-0123456789", **more):
        cfg = OmegaConf.create(
            {
                "name": "stage1",
                "stage": "stage1",
                "seed": 0,
                "parent": None,
                "connector": {"name": "mlp", "num_layers": 2, "sizes": [1, 2]},
                "trainer": {"max_steps": 10},
                "tracking": {"name": "mlflow", "experiment": "lab"},
                **more,
            }
        )
        folder = RunFolder(root / "runs" / name)
        folder.create(cfg)
        return folder

    return make
