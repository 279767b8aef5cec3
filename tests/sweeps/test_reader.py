"""Sweep files: rows, controls, baselines, and every mistake at once."""

from __future__ import annotations

import pytest

from qk_lightning.config.errors import ConfigError
from qk_lightning.sweeps.reader import load_sweep, parse_sweep

TEXT = """
preset: laptop/stage3
overrides: [all.system.context=queries]
axes: {queries.num_queries: [1, 4, 16], connector: [mlp, enc_proj]}
controls:
  - {name: both, overrides: [all.system.context=both, queries.num_queries=16]}
seeds: [0, 1]
baseline: {queries.num_queries: 1}
metrics: {val/loss: min, eval/reconstruction/psnr: max}
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "num_queries.yaml"
    path.write_text(TEXT)
    return load_sweep(path)


def test_rows_are_the_grid_and_then_the_controls(file):
    assert file.name == "num_queries"
    assert [row.name for row in file.rows()][:2] == [
        "num_queries=1, connector=mlp",
        "num_queries=1, connector=enc_proj",
    ]
    assert len(file.grid()) == 6
    last = file.rows()[-1]
    assert (last.name, last.control) == ("both", True)
    assert last.values == {"queries.num_queries": 16}


def test_overrides_carry_values_as_they_are_typed():
    sweep = parse_sweep(
        {"name": "a", "preset": "b", "axes": {"ema.decay": [0.0001], "x": [[1, 2]], "y": [True]}}
    )
    assert sweep.grid()[0].overrides == ("ema.decay=0.0001", "x=[1, 2]", "y=true")


def test_baseline_keeps_the_other_axes(file):
    row = next(row for row in file.grid() if row.name == "num_queries=16, connector=enc_proj")
    assert file.baseline_of(row).name == "num_queries=1, connector=enc_proj"


def test_all_mistakes_are_named_at_once():
    values = {
        "name": "a",
        "presett": "b",
        "axes": {"x": 3},
        "seeds": [0, 0],
        "metrics": {"val/loss": "least"},
        "slots": 0,
        "controls": [{"name": "c", "override": []}],
        "baseline": {"y": 1},
        "overrides": ["seed"],
    }
    with pytest.raises(ConfigError) as caught:
        parse_sweep(values)
    keys = {problem.key for problem in caught.value.problems}
    assert keys == {
        "presett", "preset", "axes.x", "seeds", "metrics.val/loss", "slots",
        "controls[0].override", "baseline.y", "overrides",
    }  # fmt: skip
    assert "did you mean 'preset'?" in str(caught.value)


@pytest.mark.usefixtures("tiny_presets")
def test_mistakes_of_the_file_and_of_its_members_are_named_at_once():
    values = {
        "name": "a",
        "preset": "tiny/stage1",
        "axes": {"queries.num_querys": [1], "head.num_layers": [1, "two"]},
        "controls": [{"name": "c", "overrides": ["optimiser.lr=1"]}],
        "slots": 0,
    }
    with pytest.raises(ConfigError) as caught:
        parse_sweep(values)
    keys = [problem.key for problem in caught.value.problems]
    assert keys == ["slots", "queries.num_querys", "head.num_layers", "optimiser"]
    assert "did you mean 'num_queries'?" in str(caught.value)


def test_options_of_a_part_make_a_row_name_that_can_be_read():
    parts = [{"name": "mlp", "residual": True}, {"name": "resampler"}, "linear"]
    rows = parse_sweep({"name": "a", "preset": "b", "axes": {"connector": parts}}).grid()
    names = ["connector=mlp residual=true", "connector=resampler", "connector=linear"]
    assert [row.name for row in rows] == names
    assert rows[0].overrides == ('connector={"name": "mlp", "residual": true}',)
    tasks = [{"editing": 1, "customised": 2}]
    (row,) = parse_sweep({"name": "a", "preset": "b", "axes": {"data.tasks": tasks}}).grid()
    assert row.name == "tasks=(editing=1 customised=2)"
    alike = parse_sweep({"name": "a", "preset": "b", "axes": {"x": ["mlp", {"name": "mlp"}]}})
    assert [row.name for row in alike.grid()] == ["x=mlp", 'x={"name": "mlp"}']


def test_a_baseline_outside_its_axis_is_refused():
    with pytest.raises(ConfigError, match=r"one of \[1, 2\]"):
        parse_sweep({"name": "a", "preset": "b", "axes": {"x": [1, 2]}, "baseline": {"x": 3}})


def test_a_control_is_compared_with_the_grid_row_of_its_own_values():
    values = {"name": "a", "preset": "b", "axes": {"x": [1, 4], "y": [0, 1]}, "baseline": {"x": 1}}
    both = ["x=4", "y=1"]
    controls = [("all", both), ("one", ["x=4"]), ("far", ["x=9", "y=1"]), ("none", ["z=1"])]
    values["controls"] = [{"name": name, "overrides": texts} for name, texts in controls]
    sweep = parse_sweep(values)
    compared = {row.name: sweep.baseline_of(row) for row in sweep.controls}
    assert compared["all"].values == {"x": 4, "y": 1}
    assert compared["far"].values == {"x": 1, "y": 1}  # x=9 is no row: the baseline
    assert compared["one"] is None and compared["none"] is None  # which y?
    sweep = parse_sweep({**values, "baseline": {"x": 1, "y": 0}})
    assert {sweep.baseline_of(row).name for row in sweep.controls[1:]} == {"x=1, y=0"}
    sweep = parse_sweep({**values, "baseline": {}})
    assert not any(sweep.baseline_of(row) for row in sweep.rows())


def test_a_control_needs_a_name_of_its_own():
    values = {"name": "a", "preset": "b", "axes": {"x": [1, 2]}}
    control = {"name": "x=2", "overrides": ["all.seed=1"]}
    with pytest.raises(ConfigError, match="no row of the grid"):
        parse_sweep({**values, "controls": [control]})


@pytest.mark.parametrize("name", ["../runs", "a/b", "my sweep", "..", ".hidden"])
def test_a_sweep_name_is_a_plain_file_name(name):
    with pytest.raises(ConfigError, match="write `name: \\w+`"):
        parse_sweep({"name": name, "preset": "b"})


def test_a_slip_in_a_loss_is_found_and_an_own_metric_is_not_refused():
    with pytest.raises(ConfigError, match="did you mean 'val/loss'"):
        parse_sweep({"name": "a", "preset": "b", "metrics": {"val/los": "min"}})
    own = {"val/accuracy": "max", "val/loss/editing": "min"}
    assert parse_sweep({"name": "a", "preset": "b", "metrics": own}).metrics == own
