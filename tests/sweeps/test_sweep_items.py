"""Intervals over the items of too few seeds: paired, by prompt, named, and without a verdict."""

from __future__ import annotations

import json

import fake_stages
import numpy as np
import pytest
from scipy import stats

from qk_lightning.evaluation.item import Metric
from qk_lightning.sweeps.items import ItemScore, half_width_over_items, over_items
from qk_lightning.sweeps.plan import plan_sweep
from qk_lightning.sweeps.report import write_report
from qk_lightning.sweeps.statistics import paired_difference

METRIC = "eval/avatars/accuracy"
NUM_ITEMS = 12


def scores(values, clusters=None):
    names = clusters or range(len(values))
    return {
        (f"item{at}", 0): ItemScore(value, "", str(name))
        for at, (value, name) in enumerate(zip(values, names, strict=True))
    }


def one_seed(here, there):
    means = [float(np.mean([score.value for score in of.values()])) for of in (here, there)]
    return paired_difference({7: means[0]}, {7: means[1]}, "max")


def test_one_item_a_prompt_is_the_paired_t_test():
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(size=20).tolist(), rng.normal(size=20).tolist()
    here, there = scores(ours), scores(theirs)
    found = over_items(one_seed(here, there), [(here, there)])
    expected = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    assert found.summary.low == pytest.approx(expected.low)
    assert found.summary.high == pytest.approx(expected.high)
    assert found.verdict == found.basis == "items, one seed"
    assert found.p_value is None


def test_two_seeds_are_averaged_by_item():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(2, 2, 10))
    pairs = [(scores(a.tolist()), scores(b.tolist())) for a, b in values]
    means = values.mean(2)
    difference = paired_difference(
        dict(enumerate(means[:, 0])), dict(enumerate(means[:, 1])), "min"
    )
    found = over_items(difference, pairs)
    apart = (values[:, 0] - values[:, 1]).mean(0)
    low, high = stats.t.interval(0.95, 9, apart.mean(), stats.sem(apart))
    assert (found.summary.low, found.summary.high) == (pytest.approx(low), pytest.approx(high))
    assert found.basis == "items, 2 seeds"


def test_items_that_are_not_the_same_give_no_interval():
    here, there = scores([1.0, 0.0, 1.0]), scores([0.0, 0.0])
    difference = one_seed(here, there)
    assert over_items(difference, [(here, there)]) == difference
    assert over_items(difference, [({}, {})]) == difference
    assert over_items(difference, []) == difference
    same = scores([1.0, 0.0])
    assert over_items(one_seed(same, same), [(same, same)]).verdict == "not tested"


def test_interval_over_prompts_covers_what_it_claims():
    """Pictures of a prompt scatter together, and the two groups have a different size."""
    rng = np.random.default_rng(2)
    covered = []
    for _ in range(2000):
        groups = []
        for prompts in (24, 12):
            common = rng.normal(0, 1, (prompts, 1))
            values = common + rng.normal(0, 0.5, (prompts, 3))
            groups.append([(total, 3) for total in values.sum(1).tolist()])
        mean = np.mean([sum(total for total, _ in group) / (3 * len(group)) for group in groups])
        covered.append(abs(mean) <= half_width_over_items(groups))
    assert 0.93 <= np.mean(covered) <= 0.97


@pytest.fixture
def plan(project, sweep_of):
    """A sweep of one seed whose runs kept what each item scored."""
    sweep = sweep_of(seeds=(0,))
    rng = np.random.default_rng(3)
    for run in plan_sweep(sweep).to_run:
        run.plan.write()
        fake_stages.run_stage(run.folder.path)
        if run.plan.stage != "codec":
            right = (rng.random(NUM_ITEMS) < 0.2 + 0.15 * run.plan.cfg.width).tolist()
            keep_items(run.folder, right)
    return plan_sweep(sweep)


def keep_items(folder, right):
    rows = [
        {"id": f"a{at}", "sample": 0, "world": "avatars", "task": "text_to_image", "tag": "x",
         "split": "seen", "cluster": f"a{at}", "scored": True, "verdict": bool(one), "score": 0.0,
         "parts": {}}
        for at, one in enumerate(right)
    ]  # fmt: skip
    suite = folder.path / "evaluations/final/avatars"
    suite.mkdir(parents=True)
    (suite / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rule = Metric("accuracy", "verdict", tasks=("text_to_image",)).to_dict()
    entry = {"value": float(np.mean(right)), "controls": {}, "rule": rule}
    (suite / "summary.json").write_text(json.dumps({"metrics": {METRIC: entry}}))
    folder.append_metrics(4, {METRIC: float(np.mean(right))})


@pytest.mark.usefixtures("without_plots")
def test_a_sweep_of_one_seed_names_its_intervals(plan):
    result = write_report(plan)
    row = next(row for row in result["table"] if row["row"] == "width=4")
    of = {name: row["differences"][name] for name in ("val/loss", METRIC)}
    assert of["val/loss"]["verdict"] == "not tested"  # its items are not kept
    assert of[METRIC]["verdict"] == "items, one seed"
    assert of[METRIC]["summary"]["half_width"] > 0
    assert "] items, one seed" in result["summary"]
    for name in ("report.md", "report.html", "report.tex"):
        assert "items, one seed" in (plan.folder / name).read_text()


@pytest.mark.usefixtures("without_plots")
def test_runs_from_before_the_rules_have_no_interval_over_items(plan):
    for run in plan.graph.values():
        for file in run.folder.path.glob("evaluations/final/avatars/summary.json"):
            summary = json.loads(file.read_text())
            del summary["metrics"][METRIC]["rule"]
            file.write_text(json.dumps(summary))
    assert "items" not in write_report(plan)["summary"]
