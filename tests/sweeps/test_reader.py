"""Sweep files: rows, controls, baselines, and every mistake at once."""

from __future__ import annotations

import pytest

from qk_lightning.config.errors import ConfigError
from qk_lightning.sweeps.reader import load_sweep, parse_sweep

TEXT = """
preset: avatars/stage3
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


def test_a_baseline_outside_its_axis_is_refused():
    with pytest.raises(ConfigError, match=r"one of \[1, 2\]"):
        parse_sweep({"name": "a", "preset": "b", "axes": {"x": [1, 2]}, "baseline": {"x": 3}})
