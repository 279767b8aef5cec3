"""A tiny stage 3, with low-level tokens and a LoRA on its head, that all tests here draw with."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from qk_lightning.config.run_folder import RunFolder

QUICK = ("all.max_steps=1", "stage3.optimizer.warmup_steps=0")


@pytest.fixture(scope="session")
def stage3_root(trained_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root where `qk fit tiny/stage3` was run. Copy or export its runs; never write."""
    from qk_lightning.cli.main import main

    folder = tmp_path_factory.mktemp("stage3") / "root"
    shutil.copytree(trained_root, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QK_ROOT", str(folder))
        assert main(["fit", "tiny/stage3", *QUICK]) == 0
    return folder


@pytest.fixture(scope="session")
def stage3(stage3_root: Path) -> RunFolder:
    """The run of stage 3."""
    (path,) = (stage3_root / "runs").glob("stage3-*")
    return RunFolder(path)


@pytest.fixture(scope="session")
def stage2(stage3_root: Path) -> RunFolder:
    """The run of stage 2."""
    (path,) = (stage3_root / "runs").glob("stage2-*")
    return RunFolder(path)
