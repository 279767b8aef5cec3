"""The documentation page of the claims: verdicts, commands, hardware, power. Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from qk_lightning.claims.results import (
    ClaimResult,
    describe_levels,
    describe_outcome,
    format_interval,
)
from qk_lightning.claims.verdict import NOT_RUN, VERDICTS, Outcome
from qk_lightning.config.atomic import write_text
from qk_lightning.sweeps.plan import format_count, format_seconds
from qk_lightning.sweeps.statistics import POWER
from qk_lightning.sweeps.tables import format_number, format_summary

INTRODUCTION = """\
# Claims of papers, tested in small

Each claim is a file in `experiments/claims/`: a sentence of a paper, its numbers, the sweep that
tests it with the kit's small parts, and what should come out. `qk claims --run` trains what is
missing, `--report FILE` writes this page, `--seeds 10,11,12` does it again from scratch. A verdict
is of the small test: *supported* and *contradicted* say on which side of the claim the 95 %
interval over paired seeds lies (corrected by Holm where a claim has several comparisons, which
must all hold), *not shown* that it lies on both, *not run* that runs are missing. The last column
is the smallest difference from the claim's edge that {power:.0%} of such tests would have shown:
where it is larger than the effect that one hopes for, *not shown* says little. A verdict tells of a
difference, not of its size, which stands beside it; claims are not corrected among each other."""


def write_page(file: Path, results: Sequence[ClaimResult]) -> None:
    """Write the page.

    Args:
        file: the Markdown file.
        results: the claims.
    """
    write_text(file, compose_page(results))


def compose_page(results: Sequence[ClaimResult]) -> str:
    """Make the page.

    Args:
        results: the claims.

    Returns:
        Markdown.
    """
    counts = [(verdict, sum(one.verdict == verdict for one in results)) for verdict in VERDICTS]
    said = ", ".join(f"{count} {verdict}" for verdict, count in counts if count)
    lines = [INTRODUCTION.format(power=POWER), "", *_hardware(results), "", f"**{said}.**", ""]
    lines += ["| claim | source | verdict |", "| --- | --- | --- |"]
    for one in results:
        claim = one.plan.claim
        link = f"[{claim.claim}](#{claim.name.replace('_', '-')})"
        lines.append(f"| {link} | {claim.source} | **{one.verdict}**{_mark(one)} |")
    if any(one.other_code for one in results):
        lines += ["", "\\* by code that has changed since (`qk claims --run --redo`)."]
    for one in results:
        lines += ["", *_section(one)]
    return "\n".join(lines) + "\n"


def _mark(result: ClaimResult) -> str:
    return " \\*" if result.other_code else ""


def _section(result: ClaimResult) -> list[str]:
    claim, plan = result.plan.claim, result.plan
    seeds = ", ".join(map(str, claim.seeds))
    lines = [
        f"## {claim.name.replace('_', ' ')}",
        "",
        f"{claim.claim}",
        "",
        f"- source: {claim.source}: {claim.describe_published()}",
        f"- verdict: **{result.state}**{_mark(result)}",
        f"- test: `{claim.sweep.preset}`{_with(claim.sweep.overrides)}, stage {claim.stage}, "
        f"seeds {seeds}; {format_count(len(plan.plan.graph), 'run')}{_cost(result)}",
    ]
    if plan.shares:
        lines.append(f"- shares runs with: {', '.join(plan.shares)}")
    if claim.note:
        lines.append(f"- what differs from the source: {' '.join(claim.note.split())}")
    lines += ["", "```bash", claim.command, "```", ""]
    if result.verdict == NOT_RUN:
        return [*lines, *(f"- {describe_outcome(outcome)}" for outcome in result.outcomes)]
    lines.append("| expected | arm | other | difference | p (Holm) | shown from |")
    lines.append("| --- | ---: | ---: | ---: | ---: | ---: |")
    lines += [_row(outcome) for outcome in result.outcomes]
    metrics = dict.fromkeys(outcome.comparison.metric for outcome in result.outcomes)
    beside = [(metric, describe_levels(result, metric)) for metric in metrics]
    lines += [f"\n`{metric}` is to be seen against: {text}." for metric, text in beside if text]
    return lines


def _row(outcome: Outcome) -> str:
    one, between = outcome.comparison, outcome.difference
    other = format_summary(outcome.other) if outcome.other else f"{one.value:g}"
    cells = (
        str(one),
        format_summary(outcome.arm),
        other,
        format_interval(between) if between else "-",
        "-" if outcome.adjusted_p is None else f"{outcome.adjusted_p:.3g}",
        "-" if outcome.detectable is None else format_number(outcome.detectable),
    )
    return "| " + " | ".join(cells) + " |"


def _with(overrides: Sequence[str]) -> str:
    return f" with {', '.join(f'`{text}`' for text in overrides)}" if overrides else ""


def _cost(result: ClaimResult) -> str:
    """Say how long its runs took, each on its own slot."""
    done = [run for run in result.plan.plan.graph.values() if run.done]
    seconds = sum(float(run.folder.status.get("seconds") or 0.0) for run in done)
    return f", {format_seconds(seconds)} of training and scoring" if seconds else ""


def _hardware(results: Sequence[ClaimResult]) -> list[str]:
    """Name the machines of the runs, as each run noted it, and when they were read."""
    runs = {
        identity: run
        for one in results
        for identity, run in one.plan.plan.graph.items()
        if run.done
    }
    if not runs:
        return ["Nothing was run yet."]
    made = [run.folder.read_json("provenance.json") for run in runs.values()]
    machines = Counter(_machine(provenance) for provenance in made)
    commits = Counter(_commit(provenance) for provenance in made)
    seconds = sum(float(run.folder.status.get("seconds") or 0.0) for run in runs.values())
    on = "; ".join(f"{format_count(count, 'run')} on {name}" for name, count in machines.items())
    today = datetime.now(UTC).date().isoformat()
    code = "; ".join(f"{name} ({count})" if len(commits) > 1 else name
                     for name, count in commits.items())  # fmt: skip
    return [
        f"Hardware: {on}; {format_seconds(seconds)} of runs in all. Code: {code}. Read on {today}."
    ]


def _commit(provenance: dict[str, Any]) -> str:
    git = provenance.get("git") or {}
    if not git.get("commit"):
        version = (provenance.get("packages") or {}).get("qk-lightning")
        return f"qk_lightning {version}" if version else "a version that was not noted"
    return f"commit {git['commit'][:7]}{' with changes of its own' if git.get('dirty') else ''}"


def _machine(provenance: dict[str, Any]) -> str:
    if gpus := provenance.get("gpus"):
        return ", ".join(gpus)
    cpu = provenance.get("cpu") or {}
    if not cpu.get("model"):
        return "a machine that was not noted"
    threads = format_count(int(provenance.get("threads") or 1), "thread")
    return f"{threads} of {cpu['model']} ({cpu.get('count')} cores)"
