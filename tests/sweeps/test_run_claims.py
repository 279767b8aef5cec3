"""Claims end to end on fake stages: what is missing is trained once, then all are judged."""

from __future__ import annotations

import json

import fake_stages
import pytest

from qk_lightning.claims.page import compose_page
from qk_lightning.claims.reader import parse_claim
from qk_lightning.claims.run import judge_claims, run_claims
from qk_lightning.sweeps.engine import RunOptions


@pytest.fixture
def claim_of():
    """Make a claim about the fake stages' width; the loss falls with it, the accuracy does not."""

    def make(name, *expect, stage="align", widths=(1, 4)):
        return parse_claim(
            name,
            {
                "claim": "Wide is better than narrow.",
                "source": {"paper": "A paper", "where": "Table 1"},
                "published": {"wide": {"FID": 1.0}, "narrow": {"FID": 2.0}},
                "sweep": {
                    "preset": "fake",
                    "axes": {"width": list(widths)},
                    "metrics": {"val/loss": "min", "eval/avatars/accuracy": "max"},
                },
                "stage": stage,
                "arms": {"narrow": f"width={widths[0]}", "wide": f"width={widths[1]}"},
                "expect": list(expect),
            },
        )

    return make


@pytest.fixture
def run(without_plots):
    """Run claims with fake stages and without plots; return results, status and what was said."""

    def call(*claims, **more):
        printed: list[str] = []
        options = {"plain": True, "target": fake_stages.TARGET, "preload": fake_stages.PRELOAD}
        results, status = run_claims(claims, write=printed.append, **{**options, **more})
        return results, status, "\n".join(printed)

    return call


WIDER = {"arm": "wide", "better_than": "narrow", "metric": "val/loss"}
NARROWER = {"arm": "narrow", "better_than": "wide", "metric": "val/loss"}
ACCURACY = {"arm": "wide", "better_than": "narrow", "metric": "eval/avatars/accuracy"}
AS_GOOD = {"arm": "wide", "no_worse_than": "narrow", "by": 0.1, "metric": "eval/avatars/accuracy"}


def test_claims_are_run_once_and_judged_by_what_came_out(project, claim_of, run):
    claims = [
        claim_of("holds", WIDER, AS_GOOD),
        claim_of("fails", NARROWER),
        claim_of("open", ACCURACY),
        claim_of("partly", WIDER, ACCURACY),
    ]
    before = judge_claims(claims)
    assert {one.state for one in before} == {"not run (0 of 9 runs done)"}
    assert fake_stages.calls() == []

    results, status, printed = run(*claims)
    assert status == 0
    verdicts = {one.plan.claim.name: one.verdict for one in results}
    assert verdicts == {
        "holds": "supported", "fails": "contradicted", "open": "not shown", "partly": "not shown"
    }  # fmt: skip
    assert len(fake_stages.calls()) == len(set(fake_stages.calls())) == 9  # shared, and no refine
    assert not [call for call in fake_stages.calls() if call.startswith("refine")]
    assert "narrow 0.5" in printed

    again, status, _ = run(*claims)
    assert (status, len(fake_stages.calls())) == (0, 9)
    assert "detectable" in printed
    assert [one.verdict for one in again] == [one.verdict for one in results]

    written = json.loads((project / "runs/claims/claims.json").read_text())["claims"]
    assert [one["verdict"] for one in written] == list(verdicts.values())
    assert len(written[0]["runs"]) == 6
    table = (project / "runs/claims/claims.csv").read_text().splitlines()
    assert len(table) == 1 + 6
    assert "| Wide is better than narrow. |" in (project / "runs/claims/claims.md").read_text()

    page = compose_page(results)
    assert "**1 supported, 1 contradicted, 2 not shown.**" in page
    assert "qk claims fails --run" in page
    assert "shuffled 0.2500" in page  # what the score is to be seen against
    assert "9 runs on a machine that was not noted" in page


def test_a_failed_run_leaves_its_claim_open_and_the_others_go_on(
    project, claim_of, run, monkeypatch
):
    monkeypatch.setenv("FAKE_STAGE", "align 4 1=raise")
    claims = [claim_of("first", WIDER), claim_of("second", WIDER, widths=(1, 2))]
    results, status, printed = run(*claims)
    assert status == 1
    assert "the latents are not finite" in printed
    assert [one.state for one in results] == ["not run (8 of 9 runs done)", "supported"]

    monkeypatch.delenv("FAKE_STAGE")
    before = len(fake_stages.calls())
    results, status, printed = run(*claims)
    assert (status, results[0].state) == (1, "not run (8 of 9 runs done)")
    assert "--retry failed" in printed
    results, status, _ = run(*claims, options=RunOptions(retry=True))
    assert (status, results[0].verdict) == (0, "supported")
    assert fake_stages.calls()[before:] == ["align 4 1"]


def test_runs_of_other_code_are_marked_and_done_again_on_demand(project, claim_of, run):
    claim = claim_of("holds", WIDER)
    results, _, _ = run(claim)
    stale = results[0].runs[0].folder
    stale.sources_json.write_text(json.dumps({"qk_lightning/config/chain.py": "of old"}))
    (result,) = judge_claims([claim])
    assert (result.verdict, result.other_code) == ("supported", True)
    assert "\\*" in compose_page([result])
    before = len(fake_stages.calls())
    results, _, _ = run(claim, redo=True)
    assert len(fake_stages.calls()) == before + 1


def test_other_seeds_are_a_test_from_scratch_with_tables_of_their_own(project, claim_of, run):
    claim = claim_of("holds", WIDER)
    run(claim)
    again = claim.with_seeds((10, 11, 12))
    assert [one.state for one in judge_claims([again])] == ["not run (0 of 9 runs done)"]
    results, status, printed = run(again)
    assert (status, len(fake_stages.calls())) == (0, 18)
    assert results[0].verdict == "supported"
    assert "seeds:  10, 11, 12" in printed
    assert "qk claims holds --run --seeds 10,11,12" in compose_page(results)
    command = "qk claims holds --run --seeds 10,11,12"
    assert command in (project / "runs/sweeps/claim-holds-seeds-10-11-12/report.md").read_text()
    for folder, seeds in {"claims": [0, 1, 2], "claims/seeds-10-11-12": [10, 11, 12]}.items():
        written = json.loads((project / "runs" / folder / "claims.json").read_text())["claims"]
        assert written[0]["seeds"] == seeds
