"""Reports: the figures, the honest words, the files, and no second writing without a reason."""

from __future__ import annotations

import csv
import json
import math

import pytest
from PIL import Image

from qk_lightning.sweeps import report as report_module
from qk_lightning.sweeps.plan import plan_sweep
from qk_lightning.sweeps.report import write_report
from qk_lightning.sweeps.reproduce import code_notes
from qk_lightning.sweeps.statistics import paired_difference, summarise
from qk_lightning.sweeps.tables import format_difference, format_summary

BOTH = {"name": "both", "overrides": ["width=4", "sharpness=5"]}


@pytest.fixture
def plan_of(trained, sweep_of):
    """Plan a sweep whose fake stages are trained."""

    def make(more=(), **options):
        return trained(sweep_of(controls=[BOTH, *more], **options))

    return make


@pytest.mark.usefixtures("without_plots")
def test_report_says_what_was_found_and_what_was_not(plan_of):
    plan = plan_of()
    write_report(plan)
    text = (plan.folder / "report.md").read_text()
    align = text.partition("## align")[2].partition("## refine")[0]
    rows = [line for line in align.splitlines() if line.startswith("| width=4")]
    assert len(rows) == 1
    values = [1 / 5 + 0.006 * seed for seed in range(3)]
    baseline = [1 / 2 + 0.009 * seed for seed in range(3)]
    assert format_summary(summarise(values)) in rows[0]
    pairs = (dict(enumerate(values)), dict(enumerate(baseline)))
    assert format_difference(paired_difference(*pairs, "min")) in rows[0]
    assert "better" in rows[0]
    assert f"| **{format_summary(summarise(values))}** |" in rows[0]  # the grid's best mean
    assert align.count("**") == 2  # the accuracy has no best one, and a control is not in the grid
    assert "the same" in rows[0]  # the accuracy is the same in all runs
    assert "1 k / 5 k" in rows[0]
    beside = [line for line in align.splitlines() if line.startswith("| *")]
    assert [line.replace(" ", "") for line in beside] == [
        "|*ceiling*||| 0.9000|||||".replace(" ", ""),
        "|*shuffled*|||0.2500|||||",
    ]
    assert "- *shuffled*: the right picture of another prompt" in text
    assert "Holm's correction over the arms of one metric and stage (up to 2 here)" in text
    refine = text.partition("## refine")[2]
    assert "| both (control; difference to width=4) |" in refine
    assert "A control that sets every axis" in text
    assert "No pretrained weights were used." in text
    assert "## codec" not in text  # all rows share it


@pytest.mark.usefixtures("without_plots")
def test_a_report_whose_runs_are_no_longer_the_sweeps_is_put_aside(plan_of, sweep_of):
    old = plan_of()
    written = write_report(old)
    text = (old.folder / "report.md").read_text()
    changed = plan_sweep(sweep_of(seeds=(7, 8, 9)))
    assert not any(run.done for run in changed.graph.values())
    write_report(changed)
    kept = old.folder / f"before-{written['inputs']}"
    assert (kept / "report.md").read_text() == text
    assert (kept / "table.csv").is_file()
    assert "baseline" not in (old.folder / "table.csv").read_text()
    write_report(changed)  # what stands there now has no results: nothing to keep
    assert len(list(old.folder.glob("before-*"))) == 1


def test_files_beside_the_report(plan_of):
    plan = plan_of()
    write_report(plan)
    with (plan.folder / "results.csv").open() as handle:
        lines = list(csv.DictReader(handle))
    assert len(lines) == 3 * 3 * 2 * 2  # rows, seeds, stages with metrics, metrics
    assert {line["width"] for line in lines if line["control"] == "True"} == {"4"}
    with (plan.folder / "table.csv").open() as handle:
        lines = list(csv.DictReader(handle))
    assert {line["verdict"] for line in lines} == {"", "better", "no difference shown"}
    assert {line["arms"] for line in lines if line["stage"] == "refine"} == {"", "2"}
    assert {line["interval_over"] for line in lines} == {"", "seeds"}
    assert {line["images"] for line in lines} == {"32.0"}
    assert {line["training_flops"] for line in lines} == {""}  # not counted, so not printed
    with (plan.folder / "table.csv").open() as handle:
        compared = {line["row"]: line["compared_with"] for line in csv.DictReader(handle)}
    assert compared == {"width=1": "", "width=4": "width=1", "both": "width=4"}
    plot = Image.open(plan.folder / "plot.png")
    assert plot.width > plot.height
    grid = Image.open(plan.folder / "grids/refine.png").convert("RGB")
    colours = {colour for _, colour in grid.getcolors(1 << 20)}
    assert {(40, 0, 0), (160, 0, 0), (0, 0, 255)} <= colours  # widths 1 and 4, the input


@pytest.mark.usefixtures("without_plots")
def test_two_seeds_are_not_tested(plan_of):
    plan = plan_of(seeds=(0, 1))
    result = write_report(plan)
    assert "not tested (2 < 3 seeds)" in result["summary"]
    assert result["summary"].count("(best mean)") == 2  # of the loss, in both stages
    assert "against: ceiling 0.9000, shuffled 0.2500" in result["summary"]
    assert "no interval over seeds is given" in (plan.folder / "report.md").read_text()


@pytest.mark.usefixtures("without_plots")
def test_report_is_written_anew_only_when_something_changed(plan_of, sweep_of, monkeypatch):
    plan = plan_of()
    first = write_report(plan)
    written = (plan.folder / "report.md").stat().st_mtime_ns
    assert write_report(plan_sweep(plan.file)) == json.loads(json.dumps(first))
    assert (plan.folder / "report.md").stat().st_mtime_ns == written

    run = next(iter(reversed(plan.graph.values())))
    run.folder.append_metrics(5, {"val/loss": 9.0})
    assert write_report(plan)["inputs"] != first["inputs"]
    assert (plan.folder / "report.md").stat().st_mtime_ns > written
    monkeypatch.setattr(report_module, "_code", lambda: "other code")
    assert report_module.hash_inputs(plan) != first["inputs"]


@pytest.mark.usefixtures("without_plots")
def test_runs_of_different_code_are_named_everywhere(plan_of):
    plan = plan_of()
    runs = list(plan.graph.values())
    for run, digest in zip(runs, ["then", *["now"] * len(runs)], strict=False):
        run.folder.sources_json.write_text(json.dumps({"qk_lightning/systems/base.py": digest}))
    plan = plan_sweep(plan.file)
    result = write_report(plan)
    mixed = "mixes runs of different code: between its runs systems/base.py differs"
    for name in ("report.md", "report.html"):
        assert mixed in (plan.folder / name).read_text()
    latex = " ".join((plan.folder / "report.tex").read_text().split())
    assert mixed in latex
    assert "width=4$^{*}$" in latex
    assert "$^{*}$ other code: systems/base.py differs." in latex
    assert "width=4 *" in result["summary"]
    assert "| width=4 * |" in (plan.folder / "report.md").read_text()
    with (plan.folder / "table.csv").open() as handle:
        assert {line["files_changed_since"] for line in csv.DictReader(handle)} == {"1"}


@pytest.mark.usefixtures("without_plots")
def test_runs_of_one_old_code_are_not_called_mixed(plan_of):
    plan = plan_of()
    for run in plan.graph.values():
        run.folder.sources_json.write_text(json.dumps({"qk_lightning/systems/base.py": "then"}))
    notes = code_notes(plan_sweep(plan.file))
    assert len(notes) == 1
    assert notes[0].startswith("18 of 18 finished runs were made by sources that differ from")


@pytest.mark.usefixtures("without_plots")
def test_names_cannot_break_a_table(plan_of):
    name = "a|b <script>alert(1)</script>"
    plan = plan_of(more=[{"name": name, "overrides": ["width=4", "sharpness=7"]}])
    write_report(plan)
    text = (plan.folder / "report.md").read_text()
    line = next(line for line in text.splitlines() if line.startswith(r"| a\|b"))
    assert "<script>" not in text.partition("## align")[2]
    heading = next(line for line in text.splitlines() if line.startswith("| width |"))
    assert line.replace(r"\|", "").count("|") == heading.count("|")


@pytest.mark.usefixtures("without_plots")
def test_failures_stand_in_the_report(project, sweep_of):
    plan = plan_sweep(sweep_of())
    write_report(plan, ["failed: align width=4 seed 0: ValueError: it is broken"])
    text = (plan.folder / "report.md").read_text()
    assert "it is broken" in text
    assert "0 of 15 runs are done" in text
    assert "No finished run has one of the sweep's metrics yet." in text


def test_a_row_that_diverged_is_not_called_untested():
    base = {0: 1.0, 1: 1.0, 2: 1.0}
    for values in ([1.0, math.nan, 1.0], [math.inf, -math.inf, 1.0]):
        difference = paired_difference(dict(enumerate(values)), base, "min")
        assert format_difference(difference) == difference.verdict == "not finite"
    assert format_summary(summarise([1.0, math.nan, 2.0])) == "nan (3 seeds)"


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([0.1, 0.12, 0.11], "0.110 ± 0.025"),
        ([1234.0], "1234 (1 seed)"),
        ([2.0, 2.0, 2.0], "2.000 ± 0.000"),
    ],
)
def test_means_are_written_to_the_digits_that_mean_something(values, text):
    assert format_summary(summarise(values)) == text
