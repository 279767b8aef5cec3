"""Searching with Optuna: trials as rows, a restart, pruning, and what is wrong in a file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import fake_search
import fake_stages
import pytest

from qk_lightning.config.errors import ConfigError
from qk_lightning.config.find_runs import list_runs
from qk_lightning.sweeps import plan as plan_module
from qk_lightning.sweeps.kept import sweep_text
from qk_lightning.sweeps.plan import plan_sweep
from qk_lightning.sweeps.reader import load_sweep, parse_sweep
from qk_lightning.sweeps.run import run_sweep
from qk_lightning.sweeps.study import Study
from qk_lightning.sweeps.trials import read_trials

VALUES = {
    "name": "wide",
    "preset": "fake",
    "axes": {"width": {"low": 0.5, "high": 9.0}, "sharpness": [0, 1]},
    "seeds": [0],
    "metrics": {"val/loss": "min"},
    "search": {"trials": 6, "sampler": "random", "seed": 1},
}
SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import fake_search
from qk_lightning.sweeps import plan
plan.plan_chain = fake_search.plan_chain
from qk_lightning.sweeps.run import run_sweep
from qk_lightning.sweeps.study import Study
run_sweep(Path(sys.argv[2]), target=fake_search.TARGET, preload="fake_search")
"""


@pytest.fixture
def optuna():
    return pytest.importorskip("optuna")


@pytest.fixture
def search(project, monkeypatch, without_plots):
    """Search with fake stages; return the result and what was printed."""
    monkeypatch.setattr(plan_module, "plan_chain", fake_search.plan_chain)

    def call(values):
        printed: list[str] = []
        given = values if isinstance(values, Path) else parse_sweep(values)
        options = {"plain": True, "target": fake_search.TARGET, "preload": "fake_search"}
        return run_sweep(given, write=printed.append, **options), "\n".join(printed)

    return call


def trained() -> Counter:
    return Counter(line for line in fake_stages.calls() if line.startswith("refine"))


@pytest.mark.usefixtures("optuna")
def test_trials_are_rows_and_a_finished_search_trains_nothing_more(search):
    result, printed = search(VALUES)
    trials = read_trials(result.plan.folder)
    assert [trial.state for trial in trials] == ["complete"] * 6
    assert len(result.plan.file.rows()) == 6 and result.exit_status == 0
    best = min(trials, key=lambda trial: trial.value)
    assert f"best val/loss {best.value:.5g}: trial {best.number}: width=" in printed
    assert f"trial {best.number}: width={best.values['width']}" in result.report.read_text()
    assert best.value == pytest.approx(abs(best.values["width"] - 3) + 0.01)
    lines = (result.plan.folder / "trials.csv").read_text().splitlines()
    assert lines[0] == "trial,state,width,sharpness,value,last_step" and len(lines) == 7
    before = trained()
    again, _ = search(VALUES)
    assert trained() == before and not again.outcome.trained
    search({**VALUES, "search": {**VALUES["search"], "trials": 8}})
    assert len(trained()) == 8 and set(trained().values()) == {1}
    assert read_trials(result.plan.folder)[:6] == trials


@pytest.mark.usefixtures("optuna")
def test_a_trial_equal_to_a_finished_run_is_not_trained_again(search):
    values = {**VALUES, "axes": {"width": [1, 3]}, "seeds": [0, 1]}
    result, _ = search(values)
    assert trained() == {f"refine {width} {seed}": 1 for width in (1, 3) for seed in (0, 1)}
    trials = read_trials(result.plan.folder)
    values = {round(trial.value, 6) for trial in trials}
    assert len(trials) == 6 and values == {2.0105, 0.0105}
    assert len(result.plan.file.rows()) == 2  # each combination once


@pytest.mark.usefixtures("optuna")
def test_tpe_finds_what_is_good_and_begins_with_the_baseline(tmp_path):
    axes = {"width": {"low": 0.5, "high": 90.0}, "deep": [True, [1, 2]]}
    search = {"trials": 30, "startup": 8, "seed": 3}
    first = {"width": 60.0, "deep": [1, 2]}
    file = parse_sweep({**VALUES, "axes": axes, "search": search, "baseline": first})
    found = []
    while trial := Study(file, tmp_path).next():  # opened anew each time, as after a kill
        found.append(trial.values)
        loss = abs(trial.values["width"] - 30) + (trial.values["deep"] is True)
        study = Study(file, tmp_path)
        assert study.next().values == trial.values  # it is still running
        study.tell(trial.number, "complete", loss)
    assert len(found) == 30 and found[0] == first
    late = [abs(values["width"] - 30) for values in found[15:]]
    assert sum(late) / len(late) < 15  # 21 for random ones


@pytest.mark.usefixtures("optuna")
def test_a_bad_trial_is_pruned_kept_as_pruned_and_is_no_row(search, monkeypatch):
    monkeypatch.setenv("STEP_SECONDS", "0.1")
    options = {"trials": 5, "sampler": "random", "pruner": "median", "startup": 1, "seed": 2}
    values = {**VALUES, "axes": {"width": {"low": 2, "high": 90}}, "search": options,
              "baseline": {"width": 3}, "slots": 1}  # fmt: skip
    result, printed = search(values)
    trials = read_trials(result.plan.folder)
    assert [trial.state for trial in trials] == ["complete", *["pruned"] * 4]
    assert all(trial.step < 10 and trial.value is None for trial in trials[1:])
    states = Counter(run.state for run in list_runs() if run.config.stage == "refine")
    assert states == {"done": 1, "pruned": 4}
    assert "pruned: at step" in printed or "1 complete, 4 pruned" in printed
    assert result.exit_status == 0 and len(result.plan.file.rows()) == 1
    again, _ = search(values)
    assert not again.outcome.trained and sum(trained().values()) == 5


@pytest.mark.usefixtures("optuna")
def test_a_killed_search_goes_on_with_the_trials_that_it_would_have_had(
    search, project, tmp_path, monkeypatch
):
    undisturbed, _ = search({**VALUES, "name": "undisturbed"})
    wanted = [trial.values for trial in read_trials(undisturbed.plan.folder)]
    (project / "runs").rename(project / "before")
    (project / "runs").mkdir()
    file = tmp_path / "killed.yaml"
    file.write_text(sweep_text(parse_sweep({**VALUES, "name": "killed"})))
    command = [sys.executable, "-c", SCRIPT, str(Path(__file__).parent), str(file)]
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = {**os.environ, "STEP_SECONDS": "0.1", "PYTHONPATH": path}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while sum(trained().values()) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    folder = project / "runs" / "sweeps" / "killed"
    states = Counter(trial.state for trial in read_trials(folder))
    assert 1 <= states["running"] <= 2  # one may just have ended
    done = sum(run.is_done for run in list_runs() if run.config.stage == "refine")
    result, _ = search(file)
    trials = read_trials(folder)
    assert [trial.values for trial in trials] == wanted
    assert {trial.state for trial in trials} == {"complete"}
    assert not done or len(result.outcome.trained) < 6 * 2 + 1
    again = [name for name, count in trained().items() if count > 1]
    assert len(again) <= 2  # those that ran when it was killed


@pytest.mark.usefixtures("optuna")
def test_a_trial_that_a_kill_left_half_written_is_asked_for_again(tmp_path, optuna):
    first = {"width": 2.0, "sharpness": 1}
    file = parse_sweep({**VALUES, "baseline": first, "search": {"trials": 3, "seed": 1}})
    torn, whole = Study(file, tmp_path / "torn"), Study(file, tmp_path / "whole")
    torn._study.ask({"width": optuna.distributions.FloatDistribution(0.5, 9.0)})  # and then a kill
    torn = Study(file, tmp_path / "torn")
    found, wanted = [], []
    for study, values in ((torn, found), (whole, wanted)):
        while trial := study.next():
            values.append(trial.values)
            study.tell(trial.number, "complete", trial.values["width"])
    assert found == wanted and found[0] == first and len(torn.trials()) == 3


@pytest.mark.usefixtures("optuna")
def test_failed_trials_are_asked_for_again_once(tmp_path):
    file = parse_sweep({**VALUES, "search": {"trials": 2, "sampler": "random", "seed": 1}})
    study = Study(file, tmp_path)
    first, second = study.next(), study.next()
    study.tell(first.number, "failed")
    study.tell(second.number, "complete", 1.0)
    assert study.next() is None
    study.retry_failed()
    study.retry_failed()  # they are waiting already
    again = study.next()
    assert again.values == first.values and study.next() is None
    study.tell(again.number, "complete", 2.0)
    study.retry_failed()
    assert study.next() is None and len(study.trials()) == 3


def test_without_optuna_the_error_has_the_line_for_pip(search, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match=r'pip install "qk_lightning\[search\]"'):
        search(VALUES)


@pytest.mark.usefixtures("optuna")
def test_a_search_in_the_folder_of_another_is_refused(search):
    search({**VALUES, "search": {"trials": 1}})
    axes = {**VALUES["axes"], "width": {"low": 0.5, "high": 20.0}}
    with pytest.raises(ConfigError, match="give the sweep another `name:`"):
        search({**VALUES, "axes": axes, "search": {"trials": 1}})


WRONG = {
    "axes.width.lo": {"axes": {"width": {"lo": 1, "high": 2}}},
    "axes.width": {"axes": {"width": {"low": 2, "high": 2}}},
    "axes.width.high": {"axes": {"width": {"low": 2}}},
    "axes.width.log": {"axes": {"width": {"low": 0, "high": 2, "log": True}}},
    "axes.width.step": {"axes": {"width": {"low": 0, "high": 2, "step": 3}}},
    "axes": {"axes": {}},
    "search.trials": {"search": {"sampler": "tpe"}},
    "search.sampler": {"search": {"trials": 2, "sampler": "grid"}},
    "search.metric": {"search": {"trials": 2, "metric": "val/los"}},
    "search.trial": {"search": {"trials": 2, "trial": 3}},
    "search": {"search": 3},
    "baseline": {"baseline": {"width": 1}},
    "baseline.width": {"baseline": {"width": 100, "sharpness": 0}},
    "controls": {"controls": [{"name": "a", "overrides": []}]},
}


@pytest.mark.parametrize("key", WRONG)
def test_what_is_wrong_in_a_search_is_named(key):
    with pytest.raises(ConfigError) as caught:
        parse_sweep({**VALUES, **WRONG[key]})
    assert key in [problem.key for problem in caught.value.problems]


def test_a_range_without_a_search_and_a_pruner_without_losses_are_refused():
    values = {key: value for key, value in VALUES.items() if key != "search"}
    with pytest.raises(ConfigError, match="add `search:"):
        parse_sweep(values)
    drawn = {"metrics": {"eval/avatars/attributes": "max"}}
    search = {"search": {"trials": 2, "pruner": "median"}}
    with pytest.raises(ConfigError, match="a pruner sees nothing else"):
        parse_sweep({**VALUES, **drawn, **search})


def test_a_search_is_written_as_the_file_that_says_the_same(tmp_path):
    axes = {"width": {"low": 1, "high": 9, "log": True}, "y": {"low": 0.0, "high": 1.0}}
    file = parse_sweep({**VALUES, "axes": axes, "baseline": {"width": 2, "y": 0.5}})
    path = tmp_path / "wide.yaml"
    path.write_text(sweep_text(file))
    assert replace(load_sweep(path), path=None) == file
    assert file.space["width"].is_whole and not file.space["y"].is_whole


@pytest.mark.usefixtures("tiny_presets")
def test_the_ends_of_a_space_are_looked_at_by_the_plan():
    values = {**VALUES, "preset": "tiny/stage1"}
    wrong = {
        "optimizer.lrr": {"low": 0.1, "high": 0.2},
        "queries.num_queries": {"low": -1, "high": 2},
    }
    with pytest.raises(ConfigError, match="optimizer.lrr") as caught:
        plan_sweep(parse_sweep({**values, "axes": wrong}))
    assert len(caught.value.problems) >= 2
    objectives = {"objective": ["flow_matching", "ddpm"]}
    with pytest.raises(ConfigError, match="has another objective"):
        plan_sweep(parse_sweep({**values, "axes": objectives}))
    rates = {"optimizer.lr": {"low": 1e-4, "high": 1e-2}}
    pruned = {"trials": 3, "pruner": "median"}
    with pytest.raises(ConfigError, match="validation while it trains"):
        plan_sweep(parse_sweep({**values, "axes": rates, "search": pruned}))


def test_a_plan_says_what_is_searched_and_that_nothing_has_begun(search):
    said = plan_sweep(parse_sweep({**VALUES, "seeds": [0, 1]})).describe()
    assert said.startswith("sweep wide: fake, a search, seeds 0, 1\nsearch by random, 6 trials:")
    assert "6 trials: none begun" in said and "6 of them left to train of 2 seeds each" in said
    assert "nothing to run" not in said and "0 rows" not in said
    assert "width: 0.5 to 9" in said and "sharpness: 0, 1" in said


@pytest.mark.slow
@pytest.mark.usefixtures("optuna", "tiny_presets")
def test_a_real_search_validates_prunes_and_reports():
    values = {
        "name": "lr",
        "preset": "tiny/stage1",
        "overrides": ["trainer.max_steps=120", "validation.every=10"],
        "axes": {"optimizer.lr": [1e-3, 0.3], "ema.decay": {"low": 0.5, "high": 0.9}},
        "baseline": {"optimizer.lr": 1e-3, "ema.decay": 0.9},
        "seeds": [0],
        "slots": 1,
        "search": {"trials": 3, "sampler": "random", "pruner": "median", "startup": 1},
    }
    result = run_sweep(parse_sweep(values), plain=True, write=lambda _: None)
    trials = read_trials(result.plan.folder)
    states = Counter(trial.state for trial in trials)
    assert trials[0].state == "complete" and states["pruned"] >= 1
    pruned = [run for run in list_runs() if run.state == "pruned"]
    assert len(pruned) == states["pruned"]
    for run in pruned:  # as a run that was stopped: it could go on
        assert 0 < run.last_checkpoint_step < 120 and not run.is_done
    kept = json.loads((result.plan.folder / "result.json").read_text())
    assert "trial 0: lr=0.001" in kept["summary"] and result.exit_status == 0
