"""Claims' files: what they may say, every mistake at once, and those that are shipped."""

from __future__ import annotations

import copy

import pytest

from qk_lightning.claims.reader import list_claims, load_claim, load_claims, parse_claim
from qk_lightning.claims.seeds import read_seeds
from qk_lightning.config.errors import ConfigError

VALUES = {
    "claim": "Learnable queries follow the prompt better than random ones.",
    "source": {"paper": "MetaQuery", "where": "Table 1"},
    "published": {"learnable": {"GenEval": 0.56}, "random": {"GenEval": 0.35}},
    "sweep": {
        "preset": "avatars/stage1",
        "axes": {"queries": ["learnable", "random"]},
        "metrics": {"val/loss": "min", "eval/avatars/attributes": "max"},
    },
    "stage": "stage1",
    "arms": {"learnable": "queries=learnable", "random": "queries=random"},
    "expect": [
        {"arm": "learnable", "better_than": "random", "metric": "eval/avatars/attributes"},
        {"arm": "learnable", "no_worse_than": "random", "by": 0.1, "metric": "val/loss"},
    ],
}


def changed(**values):
    return {**copy.deepcopy(VALUES), **values}


def problems_of(**values) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        parse_claim("mine", changed(**values))
    return {problem.key: str(problem) for problem in caught.value.problems}


def test_a_claim_takes_its_directions_from_the_sweep():
    claim = parse_claim("mine", VALUES)
    better, parity = claim.expect
    assert (better.goal, parity.goal, parity.by) == ("max", "min", 0.1)
    assert claim.sweep.name == "claim-mine"
    assert claim.describe_published() == "learnable: GenEval 0.56; random: GenEval 0.35"
    assert str(better) == "learnable better than random in eval/avatars/attributes"


def test_a_claim_names_a_sweep_that_has_a_file():
    claim = parse_claim(
        "mine",
        changed(
            sweep="num_queries",
            stage="stage1",
            arms={"many": "num_queries=16", "one": "num_queries=1"},
            expect=[{"arm": "many", "better_than": "one", "metric": "val/loss"}],
        ),
    )
    assert claim.sweep.preset == "avatars/stage3"
    assert claim.sweep.name == "claim-mine"  # the sweep's own report stays what it is


def test_all_mistakes_are_named_at_once():
    found = problems_of(
        clam="x",
        source={"paper": "MetaQuery"},
        published={"learnable": {"GenEval": "high"}},
        stage=3,
        arms={"learnable": "queries=learnabel", "random": "queries=random"},
        expect=[
            {"arm": "learnable", "beter_than": "random", "metric": "val/loss"},
            {"arm": "learnt", "better_than": "random", "metric": "val/los"},
            {"arm": "learnable", "better_than": "random", "by": -1, "metric": "val/loss"},
        ],
    )
    assert "did you mean 'claim'?" in found["clam"]
    assert "did you mean 'queries=learnable'?" in found["arms.learnable"]
    assert "did you mean 'better_than'?" in found["expect[0].beter_than"]
    assert "did you mean 'learnable'?" in found["expect[1].arm"]
    assert "did you mean 'val/loss'?" in found["expect[1].metric"]
    assert {"source.where", "published.learnable.GenEval", "stage", "expect[2].by"} <= set(found)
    assert "expect[0]" in found  # which says nothing of what should come out


def test_mistakes_of_the_sweep_stand_beside_those_of_the_claim():
    sweep = {**VALUES["sweep"], "seeds": [0, 0], "metrics": {"val/loss": "least"}}
    found = problems_of(sweep=sweep, note=3)
    assert {"sweep.seeds", "sweep.metrics.val/loss", "note"} <= set(found)
    sweep = {**VALUES["sweep"], "preset": "avatars/stage9"}
    with pytest.raises(ConfigError, match="did you mean 'avatars/stage"):
        from qk_lightning.claims.plan import plan_claims

        plan_claims([parse_claim("mine", changed(sweep=sweep))])


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"sweep": {**VALUES["sweep"], "seeds": [0, 1]}}, "sweep.seeds"),
        ({"sweep": {**VALUES["sweep"], "name": "other"}}, "sweep.name"),
        ({"sweep": 7}, "sweep"),
        ({"expect": []}, "expect"),
        ({"expect": VALUES["expect"][:1] + [{"arm": "random"}]}, "expect[1]"),
        ({"arms": {**VALUES["arms"], "again": "queries=random"}}, "arms"),
        ({"expect": [{"arm": "random", "above": "much", "metric": "val/loss"}]}, "expect[0].above"),
        (
            {"expect": [{"arm": "random", "no_worse_than": "learnable", "metric": "val/loss"}]},
            "expect[0].by",
        ),
        (
            {"expect": [{"arm": "random", "better_than": "random", "metric": "val/loss"}]},
            "expect[0].better_than",
        ),
        ({"expect": [{"arm": "random", "above": 0, "metric": "val/loss"}]}, "arms.learnable"),
    ],
)
def test_what_could_not_be_judged_is_refused(values, key):
    assert key in problems_of(**values)


def test_a_misspelt_claim_is_named(root):
    with pytest.raises(ConfigError, match="did you mean 'knowledge'"):
        load_claim("knowlege")


def test_the_shipped_claims_are_right_and_say_what_they_come_from(root):
    names = list_claims()
    assert len(names) == 14
    for claim in load_claims():
        assert "arXiv" in claim.source.paper
        assert len(claim.seeds) >= 3
        assert f"claims {claim.name} " in claim.path.read_text()


def test_comparisons_of_wrong_types_and_doubles_are_refused():
    better = VALUES["expect"][0]
    for key, value in {
        "arm": ["learnable"],
        "metric": ["val/loss"],
        "better_than": {"a": 1},
    }.items():
        found = problems_of(expect=[{**better, key: value}])
        assert f"expect[0].{key}" in found
    assert "each comparison once" in problems_of(expect=[better, dict(better)])["expect"]


def test_seeds_of_a_test_from_scratch_are_checked():
    assert read_seeds("10, 11,12") == (10, 11, 12)
    for wrong in ("", "10,11", "10,11,11", "10,11,x", "10,11,-1", "10 11 12", "1,2,3.5"):
        with pytest.raises(ConfigError, match="--seeds 10,11,12"):
            read_seeds(wrong)
