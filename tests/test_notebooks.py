"""Notebooks: committed without outputs, and run from top to bottom in an empty root."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
import pytest

REPOSITORY = Path(__file__).parents[1]
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
EACH = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def test_there_are_notebooks() -> None:
    assert [path.stem for path in NOTEBOOKS] == [
        "01_first_ablation", "02_swap_a_part", "03_read_a_sweep", "04_kontext_tokens",
    ]  # fmt: skip


@EACH
def test_a_notebook_is_committed_without_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not cell.get("outputs") and cell.get("execution_count") is None
        assert set(cell.metadata) == set()


@EACH
def test_every_code_cell_comes_after_words_and_compiles(path: Path) -> None:
    cells = nbformat.read(path, as_version=4).cells
    assert cells[0].cell_type == "markdown" and cells[0].source.startswith("# ")
    for cell in cells:
        if cell.cell_type == "code":
            lines = [line for line in cell.source.splitlines() if not line.startswith("%")]
            compile("\n".join(lines), path.name, "exec")


@pytest.fixture
def surroundings(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty root with Jupyter's own files in it, and this checkout's code."""
    for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(root / "jupyter" / name.lower()))
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    return root


def outputs(notebook: nbformat.NotebookNode, kind: str) -> list[str]:
    """Return what cells displayed as a type such as `text/html`, or printed (`stdout`)."""
    found = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.get("name") == kind:
                found.append(output.text)
            elif kind in output.get("data", {}):
                found.append(output.data[kind])
    return found


def files() -> set[Path]:
    """List the checkout's files that a notebook could leave or change."""
    folders = [REPOSITORY / name for name in ("notebooks", "experiments", "runs")]
    return {file for folder in folders for file in folder.rglob("*") if ".ipynb_" not in str(file)}


@pytest.mark.slow
@pytest.mark.timeout(1200)
@EACH
def test_a_notebook_runs(path: Path, surroundings: Path) -> None:
    from nbclient import NotebookClient

    before = files()
    notebook = nbformat.read(path, as_version=4)
    where = {"metadata": {"path": str(surroundings)}}
    NotebookClient(notebook, timeout=900, kernel_name="python3", resources=where).execute()
    assert files() == before
    tables = "".join(outputs(notebook, "text/html"))
    printed = "".join(outputs(notebook, "stdout"))
    assert os.fspath(surroundings) in printed  # where the report is
    CHECKS[path.stem[:2]](notebook, tables, printed)


def _first_ablation(notebook: nbformat.NotebookNode, tables: str, printed: str) -> None:
    assert "num_queries=2" in tables and "1 seed" in tables
    assert len(outputs(notebook, "image/png")) == 5
    assert printed.count("done    stage") == 9  # six runs, then the three of the new row


def _swap_a_part(notebook: nbformat.NotebookNode, tables: str, printed: str) -> None:
    assert "gated:Gated" in tables and "±" in tables
    assert "difference to the baseline" in tables
    assert outputs(notebook, "image/png")
    assert printed.count("done    stage1") == 6


def _read_a_sweep(notebook: nbformat.NotebookNode, tables: str, printed: str) -> None:
    assert "num_queries=4" in tables and "training_flops" in tables
    assert tables.count("FINISHED") >= 6  # of MLflow
    assert len(outputs(notebook, "image/png")) == 3


def _kontext_tokens(notebook: nbformat.NotebookNode, tables: str, printed: str) -> None:
    assert tables.count("black hair") == 4 and "kontext swapped" in tables
    assert len(outputs(notebook, "image/png")) == 4
    assert printed.count("done    stage1") == 1


CHECKS = {"01": _first_ablation, "02": _swap_a_part, "03": _read_a_sweep, "04": _kontext_tokens}
