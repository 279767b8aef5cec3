"""Planning the shipped claims: which runs they share, how quickly, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

import qk_lightning as qk
from qk_lightning.claims.plan import describe_plan, plan_claims, union_of
from qk_lightning.claims.reader import load_claim, load_claims
from qk_lightning.cli.main import main
from qk_lightning.config import compose
from qk_lightning.config.chain import plan_chain
from qk_lightning.config.errors import ConfigError

CODE = """
import resource, sys
from qk_lightning.cli.main import main
assert main(["claims", "--plan"]) == 0
heavy = sorted({"torch", "lightning", "mlflow", "matplotlib", "scipy"} & set(sys.modules))
used = resource.getrusage(resource.RUSAGE_SELF)
print(heavy, used.ru_utime + used.ru_stime, file=sys.stderr)
"""


def test_all_claims_are_planned_in_a_moment_without_torch(root):
    ended = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    heavy, seconds = ended.stderr.rsplit(" ", 1)
    assert heavy == "[]"
    assert float(seconds) < 6  # 2 on a quiet core; this one may be shared
    assert "14 claims" in ended.stdout


def test_each_preset_is_composed_once_for_all_claims_and_seeds(root, monkeypatch):
    composed = []
    plain = compose._compose
    monkeypatch.setattr(compose, "_compose", lambda *a: composed.append(a) or plain(*a))
    plans = plan_claims(load_claims())
    assert len(composed) * 2 < len(union_of(plans))
    for plan in plans:  # and what comes out is what each member alone would be
        member = plan.plan.members[-1]
        texts = [*plan.claim.sweep.overrides, *member.row.overrides, f"seed={member.seed}"]
        alone = plan_chain(plan.claim.sweep.preset, texts)[: len(member.chain)]
        assert [one.identity for one in alone] == [one.identity for one in member.chain]
        assert [one.cfg for one in alone] == [one.cfg for one in member.chain]


def test_claims_share_their_baselines_with_each_other_and_with_sweeps(root):
    from qk_lightning.sweeps.plan import plan_sweep

    plans = {plan.claim.name: plan for plan in plan_claims(load_claims())}
    together = union_of(list(plans.values()))
    assert len(together) < sum(len(plan.plan.graph) for plan in plans.values()) - 25
    one, two = plans["more_queries_alignment"], plans["more_queries_reconstruction"]
    assert set(one.plan.graph) == set(two.plan.graph)
    assert one.plan.graph.keys() <= plan_sweep("sweeps/num_queries_long").graph.keys()
    assert {run.plan.stage for run in one.plan.graph.values()} == {"stage1"}  # and no later stage
    text = describe_plan(list(plans.values()))
    assert f"14 claims, {len(together)} runs: 0 done, {len(together)} to run" in text


def test_a_stage_that_the_chain_lacks_and_arms_alike_are_refused(root):
    claim = load_claim("shifted_positions")
    with pytest.raises(ConfigError, match="did you mean 'stage2'"):
        plan_claims([replace(claim, stage="stag2")])
    with pytest.raises(ConfigError, match="arms that differ by stage2"):
        plan_claims([replace(claim, stage="stage2")])


def test_losses_of_different_units_are_refused(root):
    claim = load_claim("training_the_head")
    axes = {"objective.shift": (1.0, 3.0)}
    arms = {"head tuned": "shift=1.0", "head frozen": "shift=3.0"}
    expect = (replace(claim.expect[0], metric="val/loss", goal="min"),)
    sweep = replace(claim.sweep, axes=axes)
    with pytest.raises(ConfigError, match="another objective"):
        plan_claims([replace(claim, sweep=sweep, arms=arms, expect=expect)])


def test_the_command_refuses_what_it_cannot_do(root, capsys):
    assert main(["claims", "knowlege", "--plan"]) == 2
    assert "did you mean 'knowledge'" in capsys.readouterr().err
    assert main(["claims", "--redo"]) == 2
    assert main(["claims", "knowledge", "--report", str(root)]) == 2
    assert main(["claims", "knowledge"]) == 0
    assert "not run (0 of 6 runs done)" in capsys.readouterr().out
    assert "**not run" in (root / "runs/claims/claims.md").read_text()


def test_claims_are_judged_from_python_too(root):
    (result,) = qk.judge_claims("knowledge", seeds=[10, 11, 12])
    assert result.state == "not run (0 of 6 runs done)"
    assert (root / "runs/claims/seeds-10-11-12/claims.csv").is_file()
    for wrong in ([10, 11], [10, 10, 11], [1.0, 2, 3], [-1, 2, 3], [True, 2, 3]):
        with pytest.raises(ConfigError, match="different whole numbers"):
            qk.judge_claims("knowledge", seeds=wrong)


def test_options_of_runs_count_in_the_plan_and_are_refused_where_nothing_runs(root, capsys):
    assert main(["claims", "knowledge", "--plan", "--slots", "1"]) == 0
    assert "on 1 slot" in capsys.readouterr().out
    assert main(["claims", "--slots", "3", "--retry", "failed", "--redo"]) == 2
    said = capsys.readouterr().err
    assert all(f"--{flag}" in said for flag in ("slots", "retry", "redo"))
    assert "add --run" in said
    assert not (root / "runs/claims").exists()
