"""Commands in a report do what they say when they are pasted."""

from __future__ import annotations

import shlex

from qk_lightning.claims.plan import plan_claims
from qk_lightning.claims.reader import load_claim
from qk_lightning.cli.train import sweep_file
from qk_lightning.config.chain import plan_chain
from qk_lightning.sweeps.kept import keep_sweep
from qk_lightning.sweeps.plan import plan_sweep
from qk_lightning.sweeps.reproduce import command_of

SWEEP = """
preset: tiny/stage2
axes: {queries.num_queries: [1, 2]}
controls: [{name: "bare & <b>", overrides: ["stage1.data.tasks={text_to_image: 1}"]}]
"""


def identities(command: str) -> list[str]:
    """Plan a pasted `qk fit` command."""
    words = shlex.split(command)
    assert words[:2] == ["qk", "fit"]
    return [plan.identity for plan in plan_chain(words[2], words[3:])]


def test_a_sweep_with_overrides_is_found_again_by_the_name_in_its_report(tiny_presets):
    path = tiny_presets / "two.yaml"
    path.write_text(SWEEP)
    plan = plan_sweep(path, ["stage1.trainer.max_steps=2"])
    keep_sweep(plan.file)
    name = shlex.split(plan.command("--plan"))[2]
    again = plan_sweep(sweep_file(name))
    assert name.startswith("two-") and again.folder == plan.folder
    assert set(again.graph) == set(plan.graph)
    for member in plan.members:
        expected = [stage.identity for stage in member.chain]
        assert identities(command_of(plan, member)) == expected


def test_commands_of_a_claim_train_the_compared_stage_and_none_after_it():
    for name in ("more_queries_alignment", "stage1_bridge"):
        (claim,) = plan_claims([load_claim(name)])
        plan = claim.plan
        assert plan.command("--plan") == f"qk claims {name} --run --plan"
        for member in plan.members[:4]:
            expected = [stage.identity for stage in member.chain]
            assert identities(command_of(plan, member)) == expected
