"""What the runs of a sweep measured: one result a run, then the table over seeds.

Values are the last ones of each metric, read from the run folders.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from qk_lightning.config.chain import StagePlan
from qk_lightning.config.run_folder import RunFolder
from qk_lightning.evaluation.levels import Levels, in_order, read_levels
from qk_lightning.sweeps.comparable import units_key
from qk_lightning.sweeps.compare import by_seed, compare_rows
from qk_lightning.sweeps.costs import Cost, add, cost_of, mean
from qk_lightning.sweeps.file import Row
from qk_lightning.sweeps.plan import Member, SweepPlan
from qk_lightning.sweeps.statistics import Difference, Summary, summarise


@dataclass(frozen=True)
class RunResult:
    """One finished run, as one member sees it.

    Args:
        row: the member's row.
        seed: the member's seed.
        stage: the run's stage.
        folder: the run's folder.
        metrics: last value by metric.
        parameters: total and trainable parameters by part; empty where not recorded.
        seconds_per_step: measured seconds of an optimiser step; None where not recorded.
        changes: source files that differ now from those it used.
        levels: value by control, by metric: what its scores are to be seen against.
        cost: what the run cost.
        chain_cost: that with its ancestors in the sweep.
        loss_units: equal in runs whose losses compare.
    """

    row: Row
    seed: int
    stage: str
    folder: RunFolder
    metrics: dict[str, float]
    parameters: dict[str, dict[str, int]]
    seconds_per_step: float | None
    changes: tuple[str, ...]
    levels: Levels
    cost: Cost = Cost()
    chain_cost: Cost = Cost()
    loss_units: str = ""


@dataclass(frozen=True)
class TableRow:
    """One row of the sweep in one stage.

    Args:
        stage: the stage.
        row: the row's name.
        values: value by axis.
        control: whether it stands beside the grid.
        is_baseline: whether others are compared with it.
        seeds: seeds whose run of this stage is done.
        metrics: summary over seeds by metric; None where nothing was measured.
        against: name of the grid row that it is compared with; None where there is none.
        differences: difference to that row by metric; None where there is none.
        trainable: parameters that were trained.
        total: parameters of all parts.
        seconds_per_step: mean over seeds.
        other_code: source files that differ now from those a run of the row used.
        cost: of one run of the stage, a mean over seeds.
        chain_cost: that with its ancestors in the sweep.
        loss_units: equal in rows whose losses compare.
    """

    stage: str
    row: str
    values: dict[str, Any]
    control: bool
    is_baseline: bool
    seeds: tuple[int, ...]
    metrics: dict[str, Summary | None]
    against: str | None
    differences: dict[str, Difference | None]
    trainable: int | None
    total: int | None
    seconds_per_step: float | None
    other_code: tuple[str, ...]
    cost: Cost = Cost()
    chain_cost: Cost = Cost()
    loss_units: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)


def collect_results(plan: SweepPlan) -> list[RunResult]:
    """Read the finished runs of a sweep.

    Args:
        plan: the sweep.

    Returns:
        A result for each member and stage that is done, in the members' order.
    """
    read: dict[str, RunResult] = {}
    results = []
    for member in plan.members:
        costs: list[Cost] = []
        for stage in member.chain:
            run = plan.graph[stage.identity]
            if not run.done:
                continue
            if run.identity not in read:
                read[run.identity] = _read(plan, member, stage)
            result = read[run.identity]
            costs.append(result.cost)
            chain_cost = add(costs)
            results.append(replace(result, row=member.row, seed=member.seed, chain_cost=chain_cost))
    return results


def _read(plan: SweepPlan, member: Member, stage: StagePlan) -> RunResult:
    folder = plan.graph[stage.identity].folder
    status, trainer = folder.status, stage.cfg.trainer
    return RunResult(
        row=member.row,
        seed=member.seed,
        stage=stage.stage,
        folder=folder,
        metrics=folder.last_metrics(),
        parameters=folder.read_json("parameters.json"),
        seconds_per_step=status.get("seconds_per_step") or None,
        changes=tuple(plan.changes.get(stage.identity, ())),
        levels=read_levels(folder.path),
        cost=cost_of(status, int(trainer.max_steps), int(trainer.global_batch_size)),
        loss_units=units_key(stage, list(plan.file.metrics)),
    )


def describe_unmeasured(plan: SweepPlan, results: Sequence[RunResult]) -> list[str]:
    """Name the finished runs that lack a metric of the sweep which others of their stage have.

    Args:
        plan: the sweep.
        results: its results.

    Returns:
        A line a run: its metrics.csv was lost or damaged, and a mean lacks its seed.
    """
    lines = {}
    for result in results:
        like = [other for other in results if other.stage == result.stage]
        lost = [metric for metric in plan.file.metrics if metric not in result.metrics
                and sum(metric in other.metrics for other in like) > len(like) / 2]  # fmt: skip
        if lost:
            name = result.folder.name
            lines[name] = (
                f"done, and without {', '.join(lost)}: {result.stage} {result.row.name} seed "
                f"{result.seed}; train it again: qk runs rm {name}, then the sweep"
            )
    return list(lines.values())


def reported_stages(plan: SweepPlan, results: Sequence[RunResult]) -> list[str]:
    """Return the stages that a report compares.

    Those are the stages with one of the sweep's metrics whose runs differ between rows: an
    ancestor that all rows share has nothing to compare.

    Args:
        plan: the sweep.
        results: its results.
    """
    rows = plan.file.rows()
    stages = []
    for stage in plan.stages:
        here = [result for result in results if result.stage == stage]
        measured = any(metric in result.metrics for result in here for metric in plan.file.metrics)
        distinct = {
            (member.seed, planned.identity)
            for member in plan.members
            for planned in member.chain
            if planned.stage == stage
        }
        seeds = len({seed for seed, _ in distinct})
        if measured and (len(rows) == 1 or len(distinct) > seeds):
            stages.append(stage)
    return stages


def make_table(plan: SweepPlan, results: Sequence[RunResult]) -> list[TableRow]:
    """Summarise results over seeds, and compare each row with its baseline.

    Args:
        plan: the sweep.
        results: its results.

    Returns:
        Rows stage by stage, the grid before the controls.
    """
    table = []
    for stage in reported_stages(plan, results):
        of_row = {
            row.name: [item for item in results if item.stage == stage and item.row == row]
            for row in plan.file.rows()
        }
        against = {row.name: _compared_with(plan, row) for row in plan.file.rows()}
        differences = {
            metric: compare_rows(of_row, against, metric, goal)  # type: ignore[arg-type]
            for metric, goal in plan.file.metrics.items()
        }
        for row in plan.file.rows():
            own = {metric: found[row.name] for metric, found in differences.items()}
            table.append(_table_row(plan, stage, row, of_row[row.name], against[row.name], own))
    return table


def _compared_with(plan: SweepPlan, row: Row) -> str | None:
    baseline = plan.file.baseline_of(row)
    return baseline.name if baseline and baseline != row else None


def _table_row(
    plan: SweepPlan,
    stage: str,
    row: Row,
    here: Sequence[RunResult],
    against: str | None,
    differences: dict[str, Difference | None],
) -> TableRow:
    metrics: dict[str, Summary | None] = {}
    for metric in plan.file.metrics:
        values = by_seed(here, metric)
        metrics[metric] = summarise(list(values.values())) if values else None
    parts = next((item.parameters for item in here if item.parameters), {})
    seconds = [item.seconds_per_step for item in here if item.seconds_per_step is not None]
    return TableRow(
        stage=stage,
        row=row.name,
        values=row.values,
        control=row.control,
        is_baseline=plan.file.baseline_of(row) == row,
        seeds=tuple(item.seed for item in here),
        metrics=metrics,
        against=against,
        differences=differences,
        trainable=sum(part["trainable"] for part in parts.values()) if parts else None,
        total=sum(part["total"] for part in parts.values()) if parts else None,
        seconds_per_step=math.fsum(seconds) / len(seconds) if seconds else None,
        other_code=tuple(sorted({file for item in here for file in item.changes})),
        cost=mean([item.cost for item in here]),
        chain_cost=mean([item.chain_cost for item in here]),
        loss_units=here[0].loss_units if here else "",
    )


def reference_levels(plan: SweepPlan, results: Sequence[RunResult], stage: str) -> Levels:
    """Return what a stage's scores are to be seen against, a mean over its runs.

    Args:
        plan: the sweep.
        results: its results.
        stage: the stage.

    Returns:
        Value by control, by metric of the sweep; metrics without controls are left out.
    """
    found: Levels = {}
    of_run = {item.folder.name: item.levels for item in results if item.stage == stage}
    for metric in plan.file.metrics:
        given = [levels[metric] for levels in of_run.values() if metric in levels]
        names = in_order({name: value for levels in given for name, value in levels.items()})
        for name in names:
            values = [levels[name] for levels in given if name in levels]
            found.setdefault(metric, {})[name] = math.fsum(values) / len(values)
    return found
