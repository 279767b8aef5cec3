"""What the finished runs of claims say: values by arm, verdicts, and tables of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qk_lightning.claims.file import Claim, name_of
from qk_lightning.claims.plan import ClaimPlan
from qk_lightning.claims.verdict import (
    NOT_RUN,
    NOT_SHOWN,
    BySeed,
    Outcome,
    Verdict,
    judge,
    verdict_of,
)
from qk_lightning.config.atomic import write_json, write_text
from qk_lightning.config.locks import FolderLock
from qk_lightning.config.paths import runs_root
from qk_lightning.evaluation.levels import NAMES, Levels
from qk_lightning.sweeps.report import write_csv
from qk_lightning.sweeps.results import RunResult, collect_results, reference_levels
from qk_lightning.sweeps.statistics import Summary
from qk_lightning.sweeps.tables import decimals, format_number, format_summary


@dataclass(frozen=True)
class ClaimResult:
    """A claim with what came out.

    Args:
        plan: the claim and its runs.
        outcomes: its comparisons.
        verdict: of all of them.
        levels: value by control, by metric: what the scores are to be seen against.
        runs: the runs of the stage that is compared, as the arms see them.
    """

    plan: ClaimPlan
    outcomes: tuple[Outcome, ...]
    verdict: Verdict
    levels: Levels
    runs: tuple[RunResult, ...]

    @property
    def state(self) -> str:
        """The verdict, or how far its runs are."""
        return self.verdict if self.verdict != NOT_RUN else f"not run ({self.plan.state()})"

    @property
    def other_code(self) -> bool:
        """Whether one of its runs, or of their ancestors, was done by other code."""
        return bool(self.plan.plan.changes)


def claims_folder(claims: Sequence[Claim]) -> Path:
    """Return the folder of claims' tables, beside that of the sweeps.

    Args:
        claims: the claims; those of other seeds have a folder of their own.
    """
    others = dict.fromkeys(name_of(claim.seeds) for claim in claims if claim.other_seeds)
    return runs_root().joinpath("claims", *others)


def collect(plan: ClaimPlan) -> ClaimResult:
    """Read the runs of a claim that are done, and judge it.

    Args:
        plan: the claim and its runs.
    """
    claim = plan.claim
    results = [one for one in collect_results(plan.plan) if one.stage == claim.stage]
    values: dict[tuple[str, str], BySeed] = {
        (label, metric): {
            one.seed: one.metrics[metric]
            for one in results
            if one.row.name == row and metric in one.metrics
        }
        for label, row in claim.arms.items()
        for metric in claim.sweep.metrics
    }
    outcomes = tuple(judge(claim.expect, values, len(claim.seeds)))
    levels = reference_levels(plan.plan, results, claim.stage)
    return ClaimResult(plan, outcomes, verdict_of(outcomes), levels, tuple(results))


def write_results(results: Sequence[ClaimResult]) -> Path:
    """Write claims.md, claims.csv and claims.json.

    Args:
        results: the claims.

    Returns:
        The Markdown file.
    """
    folder = claims_folder([one.plan.claim for one in results])
    with FolderLock(folder):
        write_text(folder / "claims.md", to_markdown(results) + "\n")
        write_csv(folder / "claims.csv", [line for one in results for line in _lines(one)])
        write_json(folder / "claims.json", {"claims": [_as_json(one) for one in results]})
    return folder / "claims.md"


def to_markdown(results: Sequence[ClaimResult]) -> str:
    """Write the table of claims.

    Args:
        results: the claims.
    """
    lines = ["| claim | source | its numbers | ours | verdict |", "| --- | --- | --- | --- | --- |"]
    for one in results:
        claim = one.plan.claim
        ours = "<br>".join(describe_outcome(outcome) for outcome in one.outcomes)
        mark = " *" if one.other_code else ""
        cells = (
            claim.claim, str(claim.source), claim.describe_published(), ours,
            f"**{one.state}**{mark}",
        )  # fmt: skip
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    if any(one.other_code for one in results):
        lines += ["", "* by other code than today's: `qk claims --run --redo` trains again."]
    return "\n".join(lines)


def to_text(results: Sequence[ClaimResult]) -> str:
    """Write the claims for a terminal.

    Args:
        results: the claims.
    """
    blocks = []
    for one in results:
        claim = one.plan.claim
        mark = " * (by other code: --redo)" if one.other_code else ""
        seeds = ", ".join(map(str, claim.seeds))
        lines = [f"{claim.name}: {one.state}{mark}", f"  {claim.claim}"]
        lines.append(f"  source: {claim.source}; {claim.describe_published()}")
        lines += [f"  ours:   {describe_outcome(outcome)}" for outcome in one.outcomes]
        lines.append(f"  seeds:  {seeds}")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def describe_outcome(outcome: Outcome) -> str:
    """Say what one comparison came to.

    Args:
        outcome: the comparison.

    Returns:
        For example `eval/avatars/attributes: learnable 0.64 ± 0.14, random 0.35 ± 0.04,
        difference +0.29 [+0.15, +0.43]: supported`.
    """
    one = outcome.comparison
    if outcome.arm is None:
        return f"{one}: {outcome.verdict}"
    text = f"{one.metric}: {one.arm} {format_summary(outcome.arm)}"
    if one.kind == "above":
        text += f", against {one.value:g}"
    elif outcome.other is not None:
        text += f", {one.other} {format_summary(outcome.other)}"
    if outcome.difference is not None:
        text += f", difference {format_interval(outcome.difference)}"
    if one.kind == "no_worse_than":
        text += f", margin {one.by:g}"
    if outcome.verdict == NOT_SHOWN and outcome.detectable is not None:
        text += f" (detectable: {format_number(outcome.detectable)})"
    return f"{text}: {outcome.verdict}"


def format_interval(summary: Summary) -> str:
    """Write a difference with its interval.

    Args:
        summary: mean and interval over seeds.

    Returns:
        For example `+0.29 [+0.15, +0.43]`.
    """
    if summary.low is None or summary.high is None:
        return f"{format_number(summary.mean)} ({summary.count} seeds)"
    digits = decimals(summary.half_width or 0.0, summary.mean)
    return f"{summary.mean:+.{digits}f} [{summary.low:+.{digits}f}, {summary.high:+.{digits}f}]"


def describe_levels(result: ClaimResult, metric: str) -> str:
    """Say what a metric is to be seen against.

    Args:
        result: the claim.
        metric: one of its metrics.

    Returns:
        For example `shuffled 0.32, ceiling 1.00`; "" where nothing is known.
    """
    beside = result.levels.get(metric, {})
    return ", ".join(f"{NAMES[name]} {format_number(value)}" for name, value in beside.items())


def _lines(result: ClaimResult) -> list[dict[str, Any]]:
    claim = result.plan.claim
    lines = []
    for outcome in result.outcomes:
        one, between = outcome.comparison, outcome.difference
        lines.append(
            {
                "claim": claim.name,
                "source": str(claim.source),
                "stage": claim.stage,
                "metric": one.metric,
                "goal": one.goal,
                "arm": one.arm,
                "expected": one.kind,
                "other": one.other or one.value,
                "margin": one.by,
                "seeds": between.count if between else 0,
                "arm_mean": outcome.arm.mean if outcome.arm else None,
                "other_mean": outcome.other.mean if outcome.other else None,
                "difference": between.mean if between else None,
                "low": between.low if between else None,
                "high": between.high if between else None,
                "adjusted_p": outcome.adjusted_p,
                "detectable": outcome.detectable,
                "verdict": outcome.verdict,
                "claim_verdict": result.verdict,
                "by_other_code": result.other_code,
            }
        )
    return lines


def _as_json(result: ClaimResult) -> dict[str, Any]:
    claim = result.plan.claim
    plain = {
        "name": claim.name,
        "claim": claim.claim,
        "source": asdict(claim.source),
        "published": claim.published,
        "note": claim.note,
        "stage": claim.stage,
        "arms": claim.arms,
        "seeds": claim.seeds,
        "verdict": result.verdict,
        "state": result.state,
        "by_other_code": result.other_code,
        "outcomes": [asdict(outcome) for outcome in result.outcomes],
        "levels": result.levels,
        "runs": [
            {"row": run.row.name, "seed": run.seed, "folder": str(run.folder.path)}
            for run in result.runs
        ],
    }
    return dict(json.loads(json.dumps(plain)))
