"""The Python API: names that type checkers and completion see, and what a notebook gets back."""

from __future__ import annotations

import ast
import inspect
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import qk_lightning as qk
from qk_lightning.api import runs as api_runs
from qk_lightning.sweeps.keep_file import sweep_text
from qk_lightning.sweeps.reader import load_sweep

SOURCE = Path(qk.__file__)
OWN = [name for name, module in qk._EXPORTS.items() if ".api." in module]
QUICK = ["all.max_steps=2"]


def test_a_type_checker_sees_what_is_exported() -> None:
    seen = {
        alias.asname: node.module
        for node in ast.walk(ast.parse(SOURCE.read_text()))
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("qk_lightning.")
        for alias in node.names
    }
    assert seen == qk._EXPORTS
    assert (SOURCE.parent / "py.typed").is_file()


def test_completion_lists_every_name_and_every_name_is_there() -> None:
    assert set(qk._EXPORTS) < set(dir(qk))
    for name in dir(qk):
        assert getattr(qk, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'sweeep'"):
        qk.sweeep  # noqa: B018


def test_names_are_found_without_torch() -> None:
    code = "import sys, qk_lightning as qk; [getattr(qk, n) for n in dir(qk) if 'Pipe' not in n]; "
    code += "sys.exit(any(m in sys.modules for m in ('torch', 'lightning', 'mlflow', 'PIL')))"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", OWN)
def test_a_function_is_typed_and_explained(name: str) -> None:
    function = getattr(qk, name)
    parts = vars(function).values() if inspect.isclass(function) else [function]
    for part in parts:
        part = part.fget if isinstance(part, property) else part
        if not inspect.isfunction(part) or part.__name__.startswith("_"):
            continue
        signature = inspect.signature(part)
        doc = inspect.getdoc(part) or ""
        assert signature.return_annotation is not inspect.Signature.empty, part
        for argument in signature.parameters.values():
            if argument.name != "self":
                assert argument.annotation is not inspect.Parameter.empty, part
                assert f"{argument.name}:" in doc, f"{part.__name__}: {argument.name}"


PLANS: dict[str, Callable[[], object]] = {
    "preset": lambda: qk.fit(None),
    "overrides": lambda: qk.fit("tiny/stage1", [1]),
    "overrides ": lambda: qk.fit("tiny/stage1", {"seed": 1}),
    "overrides  ": lambda: qk.fit("tiny/stage1", "seed=1"),
    "overrides   ": lambda: qk.compose("tiny/stage1", None),
    "threads": lambda: qk.fit("tiny/stage1", threads=0),
    "run": lambda: qk.load_run(None),
    "run ": lambda: qk.load_run(5),
    "world": lambda: qk.show_world(5),
    "per_task": lambda: qk.show_world("avatars", 0),
    "key": lambda: qk.explain("tiny/stage1", None),
    "limit": lambda: qk.evaluate("stage1", "avatars", limit=0),
    "limit ": lambda: qk.evaluate("stage1", "avatars", limit="1"),
    "num_samples": lambda: qk.evaluate("stage1", "avatars", num_samples=0),
    "seed": lambda: qk.evaluate("stage1", "avatars", seed=-1),
}


@pytest.mark.parametrize("key", PLANS)
def test_an_argument_of_a_wrong_kind_is_named(key: str, tiny_presets, root: Path) -> None:
    with pytest.raises(qk.ConfigError) as caught:
        PLANS[key]()
    assert [problem.key for problem in caught.value.problems] == [key.strip()]
    assert not (root / "runs").exists()


def test_what_is_drawn_is_checked_before_a_run_is_asked() -> None:
    for given in (
        {"num_images": 0},
        {"num_images": 1.5},
        {"seed": "1"},
        {"seed": -1},
        {"prompt": None},
    ):
        with pytest.raises(qk.ConfigError) as caught:
            qk.generate("no run", **given)
        assert caught.value.problems[0].key == next(iter(given))


def test_a_sweep_is_planned_from_a_dict(tiny_presets, root: Path) -> None:
    axes = {"queries.num_queries": [1, 2]}
    plan = qk.plan_sweep({"name": "mine", "preset": "tiny/stage1", "axes": axes, "seeds": [0]})
    assert len(plan.members) == 2


@pytest.fixture
def trained(tiny_presets, capsys: pytest.CaptureFixture[str]) -> qk.Run:
    """A tiny stage 1, trained by the API."""
    return qk.fit("tiny/stage1", QUICK)


def test_fit_returns_a_run_that_shows_itself_and_draws(trained: qk.Run, capsys) -> None:
    said = capsys.readouterr().out
    assert "runs (2 steps)" in said and "done    stage1" in said
    assert trained.is_done and "val/loss" in trained.scores
    assert [row["step"] for row in trained.history("train/loss")] == [1, 2]
    assert trained.name in repr(trained) and "val/loss" in trained._repr_html_()
    assert "done" in qk.describe_plan("tiny/stage1", QUICK)
    assert trained.grid() is not None and "text_to_image_0" in trained.pictures()
    (picture,) = qk.generate(trained, "a person", num_inference_steps=1)
    assert picture.size == (32, 32)
    assert qk.fit("tiny/stage1", QUICK).identity == trained.identity  # nothing is done twice
    _check_what_finds_and_removes(trained)


def _check_what_finds_and_removes(trained: qk.Run) -> None:
    for found in (qk.load_run(trained.name), qk.load_run("tiny/stage1", QUICK), *qk.list_runs()):
        assert found.path == trained.path
    with pytest.raises(qk.ConfigError, match="qk fit tiny/stage2"):
        qk.load_run("tiny/stage2")
    folder = api_runs.export_part(trained, "connector", trained.path.parent / "bridge")
    assert json.loads((folder / "config.json").read_text())["part"] == "MLP"
    api_runs.remove_run(trained)
    assert qk.list_runs() == []


def test_a_mistake_is_found_before_anything_trains(tiny_presets, root: Path) -> None:
    with pytest.raises(qk.ConfigError, match="did you mean 'mlp'"):
        qk.fit("tiny/stage1", ["connector=mlpp"])
    with pytest.raises(qk.ConfigError, match="a preset or|a YAML file"):
        qk.sweep("sweeps/nothing")
    with pytest.raises(qk.ConfigError, match="a key of a sweep file"):
        qk.sweep({"name": "mine", "preset": "tiny/stage1", "axis": {}})
    assert not (root / "runs").exists()


SCRIPT = """
import json, sys
import qk_lightning as qk

first = qk.sweep({
    "name": "counts", "preset": "tiny/stage1", "overrides": ["max_steps=1"], "seeds": [0],
    "axes": {"queries.num_queries": [1]}, "baseline": {"queries.num_queries": 1},
})
wider = qk.sweep(first.with_values("queries.num_queries", 3))
print(json.dumps({
    "rows": wider.rows, "text": repr(wider), "html": wider._repr_html_(), "name": wider.name,
    "known": qk.list_sweeps(), "again": qk.report(wider.name).rows == wider.rows,
    "plot": wider.plot().size, "samples": wider.samples().size,
    "run": wider.run("num_queries=3").name,
}), file=sys.stderr)
"""


@pytest.mark.slow
def test_a_script_sweeps_and_widens_the_sweep(tiny_presets, root: Path) -> None:
    """Without `if __name__ == "__main__"`: members must not run the script again."""
    (root / "script.py").write_text(SCRIPT)
    ended = subprocess.run(
        [sys.executable, "script.py"], cwd=root, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stderr.splitlines()[-1])
    assert found["name"] == "counts_3" and found["known"] == ["counts", "counts_3"]
    assert found["again"] and found["run"].startswith("stage1-")
    assert [row["queries.num_queries"] for row in found["rows"]] == [1, 3]
    assert found["rows"][1]["compared_with"] == "num_queries=1"
    assert found["rows"][1]["verdict"] == "not tested" and found["rows"][1]["low"] is None
    assert "num_queries=3" in found["text"] and "<td>num_queries=3</td>" in found["html"]
    assert min(*found["plot"], *found["samples"]) > 100
    assert len(list((root / "runs").glob("stage1-*"))) == 2  # the first row was not done again


def test_a_sweep_made_in_a_cell_is_kept_as_the_file_that_says_the_same(tmp_path: Path) -> None:
    for name in ("sweeps/num_queries", "sweeps/low_level"):
        made = load_sweep(name)
        file = tmp_path / "again.yaml"
        file.write_text(sweep_text(made))
        again = load_sweep(file)
        assert {**vars(again), "path": None} == {**vars(made), "path": None}


def test_options_are_explained_and_counted(tiny_presets) -> None:
    assert "now: 2" in qk.explain("tiny/stage1", "queries.num_queries")
    assert "connector" in qk.dry_run("tiny/stage1").describe()
    with pytest.raises(qk.ConfigError, match="did you mean 'seed'"):
        qk.explain("tiny/stage1", "seeed")


def test_a_world_is_shown_as_a_picture(root: Path) -> None:
    sheet = qk.show_world("avatars", per_task=1, num_identities=4, num_val=2)
    assert sheet.width > 200
    with pytest.raises(qk.ConfigError, match="did you mean 'num_val'"):
        qk.show_world("avatars", num_vals=2)


@pytest.mark.slow
def test_a_run_and_foreign_pictures_are_scored(trained: qk.Run, root: Path) -> None:
    from qk_lightning.api.scoring import export_prompts, score_pictures

    (one,) = qk.evaluate(trained, "reconstruction", limit=2)
    assert one.scores.keys() == {row["metric"] for row in one.rows}
    assert "recon" in one.rows[0] and "eval/reconstruction/psnr" in one.scores
    assert "psnr" in repr(one) and (one.folder / "summary.json").is_file()
    few = ["avatars.num_identities=4", "avatars.num_val=4"]
    (folder,) = export_prompts("avatars", root / "theirs", few, limit=2)
    for target in (folder / "targets").iterdir():
        (root / "drawn").mkdir(exist_ok=True)
        (root / "drawn" / target.name).write_bytes(target.read_bytes())
    (scored,) = score_pictures(root / "drawn", "avatars", few, limit=2)
    assert scored.scores["eval/avatars/attributes"] == 1.0
