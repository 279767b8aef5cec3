"""The runs of claims: which there are, which are done, which claims share them, what they cost.

Claims are planned together, so that a run that several need is one run. No torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from qk_lightning.claims.file import Claim
from qk_lightning.config.compose import composing_once
from qk_lightning.config.errors import ConfigError, Problem, did_you_mean
from qk_lightning.sweeps.comparable import is_loss, what_differs
from qk_lightning.sweeps.graph import Graph, PlannedRun, build_graph, makespan
from qk_lightning.sweeps.plan import (
    Member,
    SweepPlan,
    find_changes,
    format_count,
    format_seconds,
    plan_members,
)


@dataclass(frozen=True)
class ClaimPlan:
    """A claim with its runs.

    Args:
        claim: the claim.
        plan: the sweep that tests it, its chains cut after the stage that is compared.
        shares: names of the other claims that need one of its runs or more.
    """

    claim: Claim
    plan: SweepPlan
    shares: tuple[str, ...]

    @property
    def to_run(self) -> list[PlannedRun]:
        """The runs that are not done."""
        return self.plan.to_run

    @property
    def seconds(self) -> float:
        """Estimated time of what is left, one run after the other; unknown runs count as 0."""
        return sum(run.seconds_left for run in self.to_run)

    def state(self) -> str:
        """Say how much of it is done."""
        total, left = len(self.plan.graph), len(self.to_run)
        return "done" if not left else f"{total - left} of {total} runs done"


def plan_claims(claims: Sequence[Claim]) -> list[ClaimPlan]:
    """Plan claims together.

    Args:
        claims: the claims.

    Returns:
        A plan for each, in the given order; runs of equal identity are the same object.

    Raises:
        ConfigError: with everything that is wrong in any of them.
    """
    members: dict[str, tuple[Member, ...]] = {}
    problems: dict[str, Problem] = {}
    with composing_once():
        for claim in claims:
            try:
                members[claim.name] = _members(claim)
            except ConfigError as error:
                for problem in error.problems:
                    where = claim.path.name if claim.path else claim.name
                    named = replace(problem, origin=problem.origin or where)
                    problems[str(named)] = named
    if problems:
        raise ConfigError(list(problems.values()))
    everything = [member for of_claim in members.values() for member in of_claim]
    graph = build_graph((member.label, member.chain) for member in everything)
    changes = find_changes(graph)
    needed = {name: _identities(of_claim) for name, of_claim in members.items()}
    return [
        ClaimPlan(
            claim,
            _cut(claim, members[claim.name], graph, changes),
            tuple(n for n in needed if n != claim.name and needed[n] & needed[claim.name]),
        )
        for claim in claims
    ]


def _members(claim: Claim) -> tuple[Member, ...]:
    """Plan the arms of a claim as far as the stage that is compared."""
    file = replace(claim.sweep, baseline={})
    whole = plan_members(file, set(claim.arms.values()))
    members = []
    for member in whole:
        stages = [stage.stage for stage in member.chain]
        if claim.stage not in stages:
            fix = did_you_mean(claim.stage, stages)
            expected = f"a stage of {claim.sweep.preset} ({', '.join(stages)})"
            raise ConfigError(Problem("stage", claim.stage, expected, fix))
        chain = member.chain[: stages.index(claim.stage) + 1]
        members.append(replace(member, chain=chain))
    _check_arms(claim, members)
    return tuple(members)


def _check_arms(claim: Claim, members: Sequence[Member]) -> None:
    """Refuse arms that are the same runs at the stage, and losses of different units.

    Raises:
        ConfigError: with all of them.
    """
    seed = claim.seeds[0]
    last = {member.row.name: member.chain[-1] for member in members if member.seed == seed}
    problems = []
    for one in claim.expect:
        if not one.other:
            continue
        arm, other = last[claim.arms[one.arm]], last[claim.arms[one.other]]
        if arm.identity == other.identity:
            expected = f"arms that differ by {claim.stage} ({one.arm} and {one.other} do not)"
            problems.append(Problem("stage", claim.stage, expected, "name a later stage"))
        elif is_loss(one.metric) and (reason := what_differs(arm, other, one.metric)):
            expected = f"a metric that is the same quantity in both arms ({reason})"
            fix = "compare by a metric of pictures, `eval/...`"
            problems.append(Problem("expect", one.metric, expected, fix))
    if problems:
        raise ConfigError(problems)


def _identities(members: Sequence[Member]) -> set[str]:
    return {stage.identity for member in members for stage in member.chain}


def _cut(
    claim: Claim, members: tuple[Member, ...], graph: Graph, changes: dict[str, list[str]]
) -> SweepPlan:
    """Make the plan of one claim, of the runs that all claims share."""
    wanted = _identities(members)
    own = {identity: run for identity, run in graph.items() if identity in wanted}
    used = {member.row.name for member in members}
    controls = tuple(row for row in claim.sweep.controls if row.name in used)
    file = replace(claim.sweep, baseline={}, controls=controls)
    of_own = {identity: files for identity, files in changes.items() if identity in wanted}
    return SweepPlan(file, members, own, of_own)


def union_of(plans: Sequence[ClaimPlan]) -> Graph:
    """Return the runs of several claims, each once, parents before children.

    Args:
        plans: the claims.
    """
    graph: Graph = {}
    for plan in plans:
        graph |= {
            identity: run for identity, run in plan.plan.graph.items() if identity not in graph
        }
    return graph


def describe_plan(plans: Sequence[ClaimPlan]) -> str:
    """Say what each claim needs, what is done, what is left, and what that costs.

    Args:
        plans: the claims, in the order in which they would run.

    Returns:
        A table and a line of the whole.
    """
    heading = ("claim", "runs", "done", "new", "estimate", "shares runs with")
    lines, counted = [heading], set()
    for plan in plans:
        left = [run for run in plan.to_run if run.identity not in counted]
        counted |= {run.identity for run in left}
        total, done = len(plan.plan.graph), len(plan.plan.graph) - len(plan.to_run)
        seconds = sum(run.seconds_left for run in left)
        unknown = " or more" if any(run.seconds is None for run in left) else ""
        cost = f"{format_seconds(seconds)}{unknown}" if left else "-"
        other = " *" if plan.plan.changes else ""
        shared = ", ".join(plan.shares) or "-"
        lines.append(
            (plan.claim.name, str(total), f"{done}{other}", str(len(left)), cost, shared)
        )  # fmt: skip
    widths = [max(len(line[column]) for line in lines) for column in range(len(heading) - 1)]
    text = ["  ".join([*(c.ljust(w) for c, w in zip(line, widths, strict=False)), line[-1]])
            for line in lines]  # fmt: skip
    return "\n".join([*text, "", *_whole(plans)])


def _whole(plans: Sequence[ClaimPlan]) -> list[str]:
    graph = union_of(plans)
    left = [run for run in graph.values() if not run.done]
    slots = max((plan.plan.slots for plan in plans), default=1)
    lines = [
        f"{format_count(len(plans), 'claim')}, {format_count(len(graph), 'run')}: "
        f"{len(graph) - len(left)} done, {len(left)} to run"
    ]
    if left:
        after = sum(run.seconds_left for run in left)
        together = format_seconds(makespan(graph, slots))
        known = "" if all(run.seconds is not None for run in left) else " (unknown runs count as 0)"
        lines.append(
            f"estimated time: {format_seconds(after)} one after the other, {together} on "
            f"{format_count(slots, 'slot')}{known}"
        )
    if any(plan.plan.changes for plan in plans):
        lines.append("* some of them by other code: `--redo` trains those again")
    lines.append("new: runs that are not done and that no claim above it needs")
    return lines
