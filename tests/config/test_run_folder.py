"""Run folders: metrics that survive a kill, finding, whole files or none."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from qk_lightning.config.atomic import aside, write_text
from qk_lightning.config.errors import ConfigError
from qk_lightning.config.find_runs import children_of, find_run, list_runs
from qk_lightning.config.paths import project_root, user_path
from qk_lightning.config.run_folder import RunFolder


def make(root: Path, name: str) -> RunFolder:
    run = RunFolder(root / "runs" / name)
    run.create(OmegaConf.create({"name": name.split("-")[0], "trainer": {"max_steps": 3}}))
    return run


def test_metrics_after_a_resumed_step_are_dropped_and_a_cut_line_is_left_out(root: Path) -> None:
    run = make(root, "a-0000000001")
    for step in (1, 2, 3):
        run.append_metrics(step, {"train/loss": step / 3})
    with (run.path / "metrics.csv").open("a") as handle:
        handle.write("4,train/lo")  # a kill in the middle of a line
    assert [row["step"] for row in run.metrics()] == [1, 2, 3]
    run.keep_metrics_until(2)
    assert run.last_metrics() == {"train/loss": 2 / 3}


def test_a_run_is_found_by_name_identity_or_beginning(root: Path) -> None:
    first, second = make(root, "stage1-aaaa000001"), make(root, "stage1-bbbb000002")
    assert find_run("stage1-aaaa000001").path == first.path
    assert find_run("bbbb").path == second.path
    assert find_run(str(first.path)).path == first.path
    with pytest.raises(ConfigError, match="found 2"):
        find_run("stage1")
    with pytest.raises(ConfigError, match="a run folder"):
        find_run("stage9")
    assert len(list_runs()) == 2


def test_children_are_known(root: Path) -> None:
    parent, child = make(root, "stage1-aaaa000001"), make(root, "stage2-bbbb000002")
    write_text(child.path / "parent.json", '{"folder": "stage1-aaaa000001", "path": ""}')
    assert [run.name for run in children_of(parent)] == [child.name]
    assert children_of(child) == []


def test_an_error_while_writing_leaves_what_stood_there(tmp_path: Path) -> None:
    file = tmp_path / "kept.txt"
    write_text(file, "old")
    with pytest.raises(RuntimeError), aside(file) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert file.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    for text in ("one", "two"):
        with aside(tmp_path / "folder") as temporary:
            temporary.mkdir()
            (temporary / text).write_text(text)
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["two"]


def test_a_run_that_was_killed_is_not_called_running(root: Path) -> None:
    run = make(root, "a-0000000001")
    run.write_status(state="running")
    assert run.state == "interrupted"
    with run.lock():
        assert run.state == "running"
    run.write_status(state="done")
    assert run.state == "done"


def test_a_folder_that_is_no_run_of_this_root_is_not_removed(
    root: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, outside = make(root, "a-0000000001"), tmp_path_factory.mktemp("b") / "b-0000000002"
    run.path.rename(outside)
    with pytest.raises(ConfigError, match="right under"):
        RunFolder(outside).remove()
    run = make(root, "a-0000000001")
    monkeypatch.chdir(run.path)
    with pytest.raises(ConfigError, match="where you are"):
        run.remove()
    monkeypatch.chdir(root)
    run.remove()
    assert (outside / "config.yaml").is_file()
    assert not run.path.exists()


def test_a_home_folder_is_expanded() -> None:
    assert user_path("~/x") == Path.home() / "x"


@pytest.mark.parametrize("text", [" ", "/etc/passwd", "/etc/passwd/below"])
def test_a_root_that_cannot_be_is_named(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QK_ROOT", text)
    with pytest.raises(ConfigError, match="one that can be made"):
        project_root()
