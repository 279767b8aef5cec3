"""Spending alike: the steps of each row, so that all cost what the rule of the sweep file says.

A row that costs more a step gets fewer of them. The steps stand in the rows' overrides, and so in
the identities of their runs, before anything trains. It goes stage by stage: an ancestor that
costs what the baseline's does is the baseline's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from qk_lightning.config.chain import StagePlan
from qk_lightning.config.errors import ConfigError, Problem
from qk_lightning.sweeps.budget_rule import Budget
from qk_lightning.sweeps.file import Row, SweepFile
from qk_lightning.sweeps.step_costs import step_costs

if TYPE_CHECKING:
    from qk_lightning.sweeps.plan import Member, SweepPlan

MAX_STEPS = "trainer.max_steps"
MIN_SHARE, LARGEST = 0.5, 1e9  # steps that an amount must come to
UNITS = {
    "steps": "steps",
    "samples": "samples",
    "training_flops": "training FLOPs",
    "seconds": "seconds of training steps",
}


@dataclass(frozen=True)
class _Share:
    """What one stage of a row may spend: an amount, or as much as the same stage elsewhere."""

    plan: StagePlan
    amount: float | None
    like: StagePlan | None


def with_steps(file: SweepFile, plan: Callable[[SweepFile], Sequence[Member]]) -> SweepFile:
    """Give every row the steps that its budget allows.

    Args:
        file: the sweep.
        plan: plans a sweep's members.

    Returns:
        The sweep with `steps`; itself where it has no budget.

    Raises:
        ConfigError: a row has neither a baseline nor an amount, or sets its steps itself; a
            step's cost cannot be told.
    """
    budget = file.budget
    if budget is None:
        return file
    file = replace(file, steps={})
    _check_steps(file)
    members = plan(replace(file, seeds=file.seeds[:1]))
    shares = _shares(file, {m.row.name: {one.stage: one for one in m.chain} for m in members})
    asked = [one for of_row in shares.values() for share in of_row
             for one in (share.plan, share.like) if one is not None]  # fmt: skip
    costs = step_costs(asked, budget.equal, file.threads)
    _check_amounts(budget, shares, costs)
    steps = {name: tuple(_override(share, costs) for share in of_row)
             for name, of_row in shares.items()}  # fmt: skip
    return replace(file, steps={name: texts for name, texts in steps.items() if texts})


def _shares(
    file: SweepFile, chains: Mapping[str, Mapping[str, StagePlan]]
) -> dict[str, list[_Share]]:
    """Return, by row, the stages whose steps the budget decides.

    Raises:
        ConfigError: a row has neither a baseline nor an amount.
    """
    assert file.budget is not None
    amounts, problems = dict(file.budget.amount), []
    stages = list(dict.fromkeys(stage for chain in chains.values() for stage in chain))
    if "" in amounts:
        amounts[stages[-1]] = amounts.pop("")
    for stage in amounts.keys() - stages:
        expected = f"a stage of the sweep ({', '.join(stages)})"
        problems.append(Problem(f"budget.amount.{stage}", amounts[stage], expected, "name one"))
    shares: dict[str, list[_Share]] = {}
    for row in file.rows():
        base = file.baseline_of(row)
        for stage, plan in chains[row.name].items():
            like = chains[base.name].get(stage) if base else None
            if stage in amounts:
                shares.setdefault(row.name, []).append(_Share(plan, amounts[stage], None))
            elif like is None:
                expected = f"a baseline of the row {row.name!r}, whose {stage} it could be equal to"
                fix = "write `baseline:` with all axes, or `amount: {" + f"{stage}: ..." + "}`"
                problems.append(Problem("budget", None, expected, fix))
            elif like.identity != plan.identity:
                shares.setdefault(row.name, []).append(_Share(plan, None, like))
    if problems:
        raise ConfigError(problems)
    return shares


def _check_amounts(
    budget: Budget, shares: Mapping[str, Sequence[_Share]], costs: Mapping[str, float]
) -> None:
    """Refuse what cannot be spent: less than half a step, or more steps than anybody trains.

    Raises:
        ConfigError: with all of them.
    """
    problems = []
    for row, of_row in shares.items():
        for share in of_row:
            steps = _steps(share, costs)
            if MIN_SHARE <= steps <= LARGEST:
                continue
            cost = f"{costs[share.plan.identity]:.4g} {UNITS[budget.equal]}"
            expected = f"{MIN_SHARE:g} to {LARGEST:g} steps for the row {row!r} ({cost} a step)"
            key = f"budget.amount.{share.plan.stage}"
            problems.append(Problem(key, share.amount, expected, f"it comes to {steps:.3g} steps"))
    if problems:
        raise ConfigError(problems)


def _steps(share: _Share, costs: Mapping[str, float]) -> float:
    """Return the steps that a stage can pay for, with a fraction."""
    spent = share.amount
    if share.like is not None:
        spent = costs[share.like.identity] * int(share.like.cfg.trainer.max_steps)
    assert spent is not None
    return spent / costs[share.plan.identity]


def _override(share: _Share, costs: Mapping[str, float]) -> str:
    """Write the steps of a stage as an override."""
    return f"{share.plan.stage}.{MAX_STEPS}={max(1, round(_steps(share, costs)))}"


def _check_steps(file: SweepFile) -> None:
    """Refuse axes and rows that set the steps, which the budget would undo.

    Raises:
        ConfigError: with all of them.
    """
    problems = []
    for axis in file.axes:
        if _sets_steps(axis):
            fix = "take the axis out, or `budget:`"
            problems.append(Problem(f"axes.{axis}", None, "no axis that the budget decides", fix))
    for row in (*file.listed, *file.controls):
        base = file.baseline_of(row)
        for text in row.overrides:
            if _sets_steps(text.partition("=")[0].strip()) and base != row:
                fix = "take it out; the baseline's steps, or `amount:`, decide"
                problems.append(Problem("override", text, "no steps beside a budget", fix))
    if problems:
        raise ConfigError(problems)


def _sets_steps(key: str) -> bool:
    return f".{key}".endswith((f".{MAX_STEPS}", ".max_steps"))


def describe_budget(plan: SweepPlan, heading: str, indent: str) -> list[str]:
    """Say what rows spend alike, and the steps that this gives each; nothing without a budget.

    Args:
        plan: the sweep.
        heading: stands before the rule.
        indent: stands before each row.
    """
    rule = plan.file.budget
    if rule is None:
        return []
    amounts = [f"{value:.10g}{f' in {stage}' if stage else ''}" for stage, value in
               rule.amount.items()]  # fmt: skip
    whose = ", ".join(amounts) or "as many as the baseline"
    lines = [f"{heading}equal {UNITS[rule.equal]} ({whose}), to the nearest step:"]
    for row in plan.file.rows():
        steps = _steps_of(plan, row).items()
        lines.append(f"{indent}{row.name}: {', '.join(f'{s} {n} steps' for s, n in steps)}")
    return lines


def _steps_of(plan: SweepPlan, row: Row) -> dict[str, int]:
    """Return the steps of a row by stage."""
    chain = next(member.chain for member in plan.members if member.row == row)
    return {stage.stage: int(stage.cfg.trainer.max_steps) for stage in chain}
