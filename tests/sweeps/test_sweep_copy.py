"""What a sweep's folder keeps of its file, and overrides that an axis would undo."""

from __future__ import annotations

import pytest

from qk_lightning.api.sweeping import report
from qk_lightning.cli.train import sweep_file
from qk_lightning.config.errors import ConfigError
from qk_lightning.sweeps.plan import plan_sweep
from qk_lightning.sweeps.reader import load_sweep, parse_sweep

FILE = """
# which width?
preset: fake
axes: {width: [1, 4]}
seeds: [0]
baseline: {width: 1}
metrics: {val/loss: min}
"""


@pytest.fixture
def file(project):
    """A sweep file without a name."""
    path = project / "widths.yaml"
    path.write_text(FILE)
    return path


def test_a_file_without_a_name_is_reported_under_its_own(file, run):
    done, _ = run(file)
    assert done.report.parent.name == "widths"
    again = report("widths")
    assert again.plan.folder == done.report.parent
    assert not (done.report.parent.parent / "sweep").exists()


def test_an_older_copy_without_a_name_has_that_of_its_folder(file, run):
    done, _ = run(file)
    (done.report.parent / "sweep.yaml").write_text(FILE)
    assert load_sweep(sweep_file("widths")).name == "widths"


def test_a_sweep_with_overrides_is_found_with_them(file, run):
    done, _ = run(file, overrides=["sharpness=2"])
    name = done.report.parent.name
    found = plan_sweep(sweep_file(name))
    assert found.folder == done.report.parent
    assert found.graph.keys() == done.plan.graph.keys()


def test_a_file_with_its_name_is_kept_with_its_comments(file, run):
    file.write_text(f"name: widths{FILE}")
    done, _ = run(file)
    assert (done.report.parent / "sweep.yaml").read_text() == file.read_text()


def test_a_damaged_result_is_written_anew(file, run):
    done, _ = run(file)
    (done.report.parent / "result.json").write_text('{"inputs": ')
    again, _ = run(file)
    assert again.result["summary"] == done.result["summary"]


@pytest.mark.parametrize(
    ("override", "axis"),
    [
        ("stage3.optimizer.lr=0.3", "optimizer.lr"),
        ("optimizer.lr=0.3", "stage3.optimizer.lr"),
        ("stage1.lr=0.3", "all.optimizer.lr"),
        ("stage1.queries.num_queries=3", "queries.num_queries"),
    ],
)
def test_an_override_that_an_axis_undoes_in_its_stage_is_refused(override, axis):
    values = {"name": "undone", "preset": "avatars/stage3", "seeds": [0]}
    with pytest.raises(ConfigError, match=f"the axis {axis} undoes"):
        plan_sweep({**values, "overrides": [override], "axes": {axis: [1, 2]}})


def test_an_override_of_a_stage_that_the_axis_leaves_alone_stands():
    values = {"name": "kept", "preset": "avatars/stage3", "seeds": [0]}
    axes = {"optimizer.lr": [0.1, 0.2]}
    plan = plan_sweep({**values, "overrides": ["stage1.optimizer.lr=0.3"], "axes": axes})
    assert {member.chain[0].cfg.optimizer.lr for member in plan.members} == {0.3}


def test_a_finished_run_that_lost_its_metrics_is_named(file, run):
    file.write_text(FILE.replace("seeds: [0]", "seeds: [0, 1, 2]"))
    done, _ = run(file)
    lost = done.plan.members[0].chain[-1].folder
    (lost.path / "metrics.csv").unlink()
    again, printed = run(file)
    assert f"qk runs rm {lost.name}" in printed
    assert f"qk runs rm {lost.name}" in again.report.read_text()


@pytest.mark.parametrize("name", ["", " ", "two\nlines", "x" * 201])
def test_a_row_has_a_name_of_one_line(name):
    rows = [{"name": name, "overrides": ["seed=1"]}, {"name": "b", "overrides": []}]
    with pytest.raises(ConfigError, match="one line of at most"):
        parse_sweep({"name": "rows", "preset": "avatars/stage1", "rows": rows})


@pytest.mark.parametrize(
    ("metric", "meant"),
    [
        ("eval/avatars/attribute", "eval/avatars/attributes"),
        ("eval/reconstruction/psnrs", "eval/reconstruction/psnr"),
    ],
)
def test_a_slip_in_the_metric_of_a_suite_is_refused(metric, meant):
    values = {"name": "slip", "preset": "avatars/stage1", "axes": {"optimizer.lr": [0.1, 0.2]}}
    with pytest.raises(ConfigError, match=f"did you mean '{meant}'"):
        plan_sweep({**values, "metrics": {metric: "max"}})


def test_a_tab_is_called_a_tab(tmp_path):
    file = tmp_path / "tabs.yaml"
    file.write_text("preset: fake\naxes:\n\twidth: [1, 2]\n")
    with pytest.raises(ConfigError, match="spaces in place of the tab"):
        load_sweep(file)
