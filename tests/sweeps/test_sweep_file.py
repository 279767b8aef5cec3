"""Sweep files: axes that advance together, rows by name, axes of one stage, budgets, metrics."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from qk_lightning.config.errors import ConfigError
from qk_lightning.sweeps.file import make_row
from qk_lightning.sweeps.kept import sweep_text
from qk_lightning.sweeps.plan import plan_sweep
from qk_lightning.sweeps.plots import write_plot
from qk_lightning.sweeps.reader import load_sweep, parse_sweep
from qk_lightning.sweeps.results import make_table

BASE = {"name": "a", "preset": "b"}
ZIPPED = {"axes": {"x.depth": [1, 1, 2], "y": [0, 5], "x.width": [8, 16, 8]},
          "zip": ["x.depth", "x.width"]}  # fmt: skip


def problems(values: dict) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        plan = parse_sweep({**BASE, **values})
        plan_sweep(plan)
    return {problem.key: f"{problem.expected}; {problem.fix}" for problem in caught.value.problems}


def test_zipped_axes_advance_together_and_cross_the_others():
    file = parse_sweep({**BASE, **ZIPPED})
    assert [row.name for row in file.grid()][:3] == [
        "depth=1, width=8, y=0", "depth=1, width=8, y=5", "depth=1, width=16, y=0"
    ]  # fmt: skip
    assert len(file.grid()) == 6
    assert file.grid()[2].overrides == ("x.depth=1", "x.width=16", "y=0")


def test_one_value_of_a_zipped_axis_names_the_others_of_the_baseline():
    file = parse_sweep({**BASE, **ZIPPED, "baseline": {"x.depth": 2}})
    assert file.baseline == {"x.depth": 2, "x.width": 8}
    row = file.grid()[1]
    assert file.baseline_of(row).name == "depth=2, width=8, y=5"
    found = problems({**ZIPPED, "baseline": {"x.depth": 1}})
    assert "name x.width too" in found["baseline.x.depth"]
    found = problems({**ZIPPED, "baseline": {"x.depth": 2, "x.width": 16}})
    assert "advance together" in found["baseline.x.depth"]


@pytest.mark.parametrize(
    ("zipped", "axes", "said"),
    [
        (["x", "z"], {"x": [1], "y": [2]}, "one of the axes"),
        (["x", "y"], {"x": [1, 2], "y": [2]}, "same number"),
        (["x"], {"x": [1, 2]}, "same number"),
        (["x", "y"], {"x": [1, 1], "y": [2, 2]}, "each combination"),
        ([["x", "y"], ["y", "z"]], {"x": [1], "y": [2], "z": [3]}, "each axis once"),
        ("x", {"x": [1]}, "a list of axes"),
    ],
)
def test_a_wrong_zip_says_what_is_wrong(zipped, axes, said):
    assert said in problems({"axes": axes, "zip": zipped})["zip"]


ROWS = [{"name": "plain", "overrides": []}, {"name": "deep", "overrides": ["connector.layers=4"]}]


def test_rows_by_name_stand_in_place_of_a_grid():
    file = parse_sweep({**BASE, "rows": ROWS, "baseline": "plain"})
    assert [(row.name, row.control) for row in file.rows()] == [("plain", False), ("deep", False)]
    assert file.baseline_of(file.rows()[1]).name == "plain"
    assert "name of one of the rows" in problems({"rows": ROWS, "baseline": "plein"})["baseline"]
    assert "each name once" in problems({"rows": [ROWS[0], ROWS[0]]})["rows"]
    assert "rows or axes" in problems({"rows": ROWS, "axes": {"x": [1]}})["rows"]
    assert "rename" in problems({"rows": ROWS, "controls": [ROWS[1]]})["controls"]


@pytest.mark.parametrize(
    "values",
    [
        {**ZIPPED, "baseline": {"y": 0}},
        {"rows": ROWS, "baseline": "plain", "controls": [{"name": "c", "overrides": ["z=1"]}]},
        {"axes": {"x": [1, 2]}, "baseline": {"x": 1}, "budget": {"equal": "samples"}},
        {"axes": {"x": [1]}, "budget": {"equal": "samples", "amount": {"stage3": 64}}},
        {"axes": {"x": [1]}, "budget": {"equal": "steps", "amount": 10}},
    ],
)
def test_a_sweep_made_in_memory_is_written_as_the_file_that_says_the_same(values, tmp_path):
    file = parse_sweep({**BASE, **values})
    path = tmp_path / "a.yaml"
    path.write_text(sweep_text(file))
    assert replace(load_sweep(path), path=None) == file


def test_axes_that_end_alike_are_told_apart():
    file = parse_sweep({**BASE, "axes": {"stage1.optimizer.lr": [1], "stage2.optimizer.lr": [2]}})
    assert file.grid()[0].name == "stage1.optimizer.lr=1, stage2.optimizer.lr=2"


@pytest.mark.usefixtures("tiny_presets")
def test_axes_reach_one_stage_alone_in_a_grid_and_in_a_zip():
    values = {
        **BASE,
        "preset": "tiny/stage3",
        "axes": {"stage3.system.low_level": [True, False], "stage2.trainer.max_steps": [4, 6]},
        "seeds": [0],
    }
    grid = plan_sweep(parse_sweep(values))
    assert len(grid.members) == 4 and len(grid.graph) == 1 + 2 + 4
    zipped = plan_sweep(parse_sweep({**values, "zip": [*values["axes"]]}))
    assert len(zipped.members) == 2 and len(zipped.graph) == 1 + 2 + 2
    second = zipped.members[1].chain
    assert [plan.cfg.trainer.max_steps for plan in second] == [4, 6, 4]
    assert [plan.cfg.system.low_level for plan in second] == [False, False, False]
    assert zipped.members[0].chain[2].cfg.system.low_level


@pytest.mark.usefixtures("tiny_presets")
@pytest.mark.parametrize("axis", ["stage4.system.low_level", "stage3.system.low_levels"])
def test_an_axis_that_no_stage_has_is_refused(axis):
    found = problems({"preset": "tiny/stage3", "axes": {axis: [True, False]}})
    assert len(found) in (1, 2) and all("did you mean" in text for text in found.values())


@pytest.mark.usefixtures("tiny_presets")
@pytest.mark.parametrize(
    ("metric", "overrides", "said"),
    [
        ("val/loss/edting", [], "no task edting"),
        ("val/loss", ["all.validation.num_samples=0"], "num_samples is 0"),
        ("eval/scenes/overall", [], "about scenes, not avatars"),
        ("eval/avatars/attributes", ["all.validation.num_images=0"], "num_images is 0"),
        ("eval/avatars/rank1", ["all.validation.suites=[reconstruction]"], "leaves avatars out"),
        ("eval/understanding/counting", [], "trains no understanding"),
    ],
)
def test_a_metric_that_nobody_logs_is_refused(metric, overrides, said):
    values = {"preset": "tiny/stage1", "metrics": {metric: "min"}, "overrides": overrides}
    assert said in problems(values)[f"metrics.{metric}"]


@pytest.mark.usefixtures("tiny_presets")
def test_equal_samples_give_a_larger_batch_fewer_steps():
    values = {
        **BASE,
        "preset": "tiny/stage2",
        "overrides": ["all.trainer.max_steps=12"],
        "axes": {"stage2.trainer.global_batch_size": [4, 8, 20]},
        "baseline": {"stage2.trainer.global_batch_size": 4},
        "budget": {"equal": "samples"},
        "seeds": [0, 1],
    }
    plan = plan_sweep(values)
    steps = [[stage.cfg.trainer.max_steps for stage in member.chain] for member in plan.members]
    assert steps == [[12, 12], [12, 12], [12, 6], [12, 6], [12, 2], [12, 2]]
    assert len(plan.graph) == 2 + 6  # stage 1 costs the same for all, and is shared
    assert set(plan_sweep(values).graph) == set(plan.graph)
    said = plan.describe()
    assert "budget: equal samples (as many as the baseline), to the nearest step:" in said
    assert "global_batch_size=20: stage1 12 steps, stage2 2 steps" in said
    assert plan.file.rows()[2].overrides[-1] == "stage2.trainer.max_steps=2"  # to make it again
    given = {**values, "baseline": {}, "budget": {"equal": "samples", "amount": {"stage2": 80}}}
    with pytest.raises(ConfigError, match="stage1 it could be equal to"):
        plan_sweep(given)
    given["budget"]["amount"]["stage1"] = 8
    plan = plan_sweep(given)
    steps = [[stage.cfg.trainer.max_steps for stage in member.chain] for member in plan.members]
    assert steps == [[2, 20], [2, 20], [2, 10], [2, 10], [2, 4], [2, 4]]
    for amount, steps in {1: "0.25", 1e30: "2.5e+29"}.items():  # less than a step; far too many
        given["budget"]["amount"]["stage2"] = amount
        with pytest.raises(ConfigError, match=re.escape(f"it comes to {steps} steps")):
            plan_sweep(given)


@pytest.mark.usefixtures("tiny_presets")
def test_a_budget_and_steps_of_a_row_s_own_are_refused():
    values = {"preset": "tiny/stage1", "budget": {"equal": "steps"}, "seeds": [0]}
    axis = {**values, "axes": {"trainer.max_steps": [2, 4]}, "baseline": {"trainer.max_steps": 2}}
    assert "no axis that the budget" in problems(axis)["axes.trainer.max_steps"]
    rows = [{"name": "a", "overrides": ["all.trainer.max_steps=6"]},
            {"name": "b", "overrides": ["trainer.max_steps=9", "optimizer.lr=1e-5"]}]  # fmt: skip
    own = {**values, "rows": rows, "baseline": "a"}
    assert "no steps beside a budget" in problems(own)["override"]
    rows[1]["overrides"].pop(0)
    plan = plan_sweep({**BASE, **own})
    assert [member.chain[0].cfg.trainer.max_steps for member in plan.members] == [6, 6]


@pytest.mark.parametrize(
    ("budget", "key"),
    [
        ("samples", "budget"),
        ({"equal": "flops"}, "budget.equal"),
        ({"equal": "samples", "amounts": 3}, "budget.amounts"),
        ({"equal": "samples", "amount": -1}, "budget.amount"),
        ({"equal": "samples", "amount": {"stage1": float("inf")}}, "budget.amount.stage1"),
    ],
)
def test_a_wrong_budget_says_what_is_wrong(budget, key):
    assert key in problems({"budget": budget})


def test_a_zipped_axis_is_one_line_of_a_plot(project, sweep_of, run):
    axes = {"width": [1, 4], "sharpness": [0, 9]}
    file = sweep_of(axes=axes, zip=[*axes])
    done, printed = run(file)
    assert "width=4, sharpness=9" in printed and "better" in printed
    table = make_table(done.plan, [])
    assert write_plot(project / "plot.png", done.plan.file, table, {}) in (True, False)


FLOPS = {
    **BASE,
    "preset": "tiny/stage2",
    "axes": {"head.num_single_layers": [1, 4]},
    "baseline": {"head.num_single_layers": 1},
    "overrides": ["all.trainer.max_steps=40"],
    "seeds": [0],
}


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_presets")
def test_equal_training_flops_are_counted_once_and_give_the_same_identities(root, capfd):
    values = {**FLOPS, "budget": {"equal": "training_flops"}}
    plan = plan_sweep(values)
    assert "counting the training FLOPs of 2 configurations" in capfd.readouterr().err
    kept = [
        json.loads(file.read_text()) for file in (root / "runs/sweeps").glob(".step_costs/*.json")
    ]
    few, many = sorted(one["training_flops"] for one in kept)
    steps = [member.chain[-1].cfg.trainer.max_steps for member in plan.members]
    assert few < many and steps == [40, round(40 * few / many)]
    again = plan_sweep(values)
    assert capfd.readouterr().err == "" and set(again.graph) == set(plan.graph)
    assert "equal training FLOPs (as many as the baseline)" in again.describe()
    assert len(plan.graph) == 3  # stage 1 is shared


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_presets")
def test_equal_seconds_are_measured_once_in_a_short_run_that_leaves_nothing(root, capfd):
    values = {**FLOPS, "budget": {"equal": "seconds"}}
    values["axes"] = {"head.num_single_layers": [1, 12]}
    plan = plan_sweep(values)
    assert "timing the steps of 2 configurations" in capfd.readouterr().err
    steps = [member.chain[-1].cfg.trainer.max_steps for member in plan.members]
    assert steps[0] == 40 and 1 <= steps[1] < 40
    assert set(plan_sweep(values).graph) == set(plan.graph) and not capfd.readouterr().err
    assert not [*(root / "runs").rglob("config.yaml")] and not plan.graph.keys() - {
        run.identity for run in plan.to_run
    }


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_presets")
def test_steps_that_cannot_be_counted_are_refused():
    values = {
        **FLOPS,
        "preset": "laptop/codec",
        "axes": {"autoencoder.patch": [8, 16]},
        "baseline": {"autoencoder.patch": 8},
        "budget": {"equal": "training_flops"},
    }
    with pytest.raises(ConfigError, match="write `equal: samples`"):
        plan_sweep(values)


def test_an_axis_over_a_part_s_name_is_called_after_the_part():
    values = {"connector.name": "mlp", "connector.num_layers": 2}
    assert make_row(values).name == "connector=mlp, num_layers=2"
    both = {"connector": "mlp", "stage1.connector.name": "linear"}
    assert make_row(both).name == "connector=mlp, stage1.connector.name=linear"
