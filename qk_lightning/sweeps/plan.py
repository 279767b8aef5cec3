"""The plan of a sweep: its members, the graph of their runs, what is done, what it will take.

A member is one row of the sweep with one seed; its chain of stages is planned like `fit` plans
it. Nothing here imports torch.
"""

from __future__ import annotations

import hashlib
import itertools
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qk_lightning.config.arguments import check_overrides
from qk_lightning.config.chain import StagePlan, plan_chain
from qk_lightning.config.compose import composing_once
from qk_lightning.config.errors import ConfigError, Problem
from qk_lightning.config.paths import sweeps_root
from qk_lightning.sweeps.budget import describe_budget, with_steps
from qk_lightning.sweeps.columns import in_columns
from qk_lightning.sweeps.comparable import loss_problems
from qk_lightning.sweeps.failures import describe_begun, describe_left, mark_failed
from qk_lightning.sweeps.file import Row, SweepFile
from qk_lightning.sweeps.graph import Graph, PlannedRun, build_graph, left_alone, makespan
from qk_lightning.sweeps.logged import metric_problems
from qk_lightning.sweeps.override_checks import check_overrides_of, undone_problems
from qk_lightning.sweeps.probe import plan_probe
from qk_lightning.sweeps.reader import load_sweep, parse_sweep
from qk_lightning.sweeps.room import describe_room, room_of
from qk_lightning.sweeps.trials import describe_search, trials_left, with_trials
from qk_lightning.tracking.provenance import describe_changes, source_changes


@dataclass(frozen=True)
class Member:
    """One row with one seed.

    Args:
        row: the row of the comparison.
        seed: the seed.
        chain: its stages, first ancestor first.
    """

    row: Row
    seed: int
    chain: tuple[StagePlan, ...]

    @property
    def label(self) -> str:
        """Row and seed, for people."""
        return f"{self.row.name} seed {self.seed}"


@dataclass(frozen=True)
class SweepPlan:
    """A sweep that was planned.

    Args:
        file: the sweep file.
        members: every row with every seed.
        graph: their runs, each once.
        changes: files that differ from those a finished run used, by identity.
    """

    file: SweepFile
    members: tuple[Member, ...]
    graph: Graph
    changes: dict[str, list[str]]

    def command(self, *words: str) -> str:
        """Write the command that runs all of it.

        Args:
            words: further words of the command line.
        """
        command = self.file.command or f"qk sweep {shlex.quote(self.file.name)}"
        return " ".join([command, *words])

    @property
    def folder(self) -> Path:
        """Where the sweep's report stands."""
        return sweeps_root() / self.file.name

    @property
    def stages(self) -> list[str]:
        """Labels of the stages, first ancestor first."""
        return list(dict.fromkeys(plan.stage for member in self.members for plan in member.chain))

    @property
    def to_run(self) -> list[PlannedRun]:
        """The runs that are not done."""
        return [run for run in self.graph.values() if not run.done]

    @property
    def to_start(self) -> list[PlannedRun]:
        """Those of them that do not wait for a run that failed and is left as it is."""
        alone = {run.identity for run in left_alone(self.graph)}
        return [run for run in self.to_run if run.identity not in alone]

    @property
    def slots(self) -> int:
        """Most runs at the same time."""
        return room_of(self.file, list(self.graph.values())).slots or len(self.graph)

    def describe(self) -> str:
        """Say what will run, what is done already, and how long the rest takes."""
        file, total, left = self.file, len(self.graph), len(self.to_run)
        grid, controls = len(file.grid()), len(file.controls)
        beside = f" + {format_count(controls, 'control')}" if controls else ""
        seeds = ", ".join(str(seed) for seed in file.seeds)
        rows = f"{format_count(grid, 'row')}{beside}" if not file.search else "a search"
        lines = [
            f"sweep {file.name}: {file.preset}, {rows}, seeds {seeds}",
            f"{len(self.members)} members, {total} runs ({self._shared()} shared): "
            f"{total - left} done, {left} to run",
            "",
            *in_columns([["", *self.stages], *(self._row_cells(row) for row in file.rows())]),
            "",
        ]
        if file.search and not self.members:
            lines = lines[:1]
        lines += [
            *describe_search(file, indent="  "),
            *describe_budget(self, "budget: ", "  "),
            *self._notes(),
        ]
        return "\n".join(lines)

    def _shared(self) -> int:
        return sum(len(run.users) > 1 for run in self.graph.values())

    def _row_cells(self, row: Row) -> list[str]:
        cells = [f"{row.name} (control)" if row.control else row.name]
        for stage in self.stages:
            runs = {
                plan.identity: self.graph[plan.identity]
                for member in self.members
                for plan in member.chain
                if member.row == row and plan.stage == stage
            }
            done = sum(run.done for run in runs.values())
            other = " *" if any(identity in self.changes for identity in runs) else ""
            begun = describe_begun(runs.values())
            cells.append(f"{done} of {len(runs)} done{begun}{other}" if runs else "-")
        return cells

    def _notes(self) -> list[str]:
        notes = []
        if self.changes:
            files = {file for files in self.changes.values() for file in files}
            notes.append(
                f"* done by other code ({describe_changes(files)}): "
                "`--redo` trains those runs again"
            )
        notes += describe_left(self.graph.values(), self.command("--retry failed"))
        if not self.to_start:
            return notes if trials_left(self.file) else [*notes, "nothing to run"]
        return [*notes, describe_room(self.file, self.to_start), self._estimate()]

    def _estimate(self) -> str:
        left = self.to_start
        unknown = sorted({run.plan.stage for run in left if run.seconds is None})
        missing = f"; nothing is known about {', '.join(unknown)}" if unknown else ""
        threads = format_count(self.file.threads, "thread")
        slots = f"{format_count(self.slots, 'slot')} of {threads}"
        if all(run.seconds is None for run in left):
            return f"estimated time: unknown on {slots} (none of it was run here before)"
        seconds = format_seconds(makespan(self.graph, self.slots))
        measured = "measured here" if all(run.measured for run in left) else "partly from presets"
        measured = measured if any(run.measured for run in left) else "from presets"
        return f"estimated time: {seconds} on {slots} ({measured}{missing})"


def plan_sweep(
    sweep: str | Path | SweepFile | Mapping[str, Any], overrides: Sequence[str] = ()
) -> SweepPlan:
    """Plan a sweep.

    Args:
        sweep: a sweep file's name or path, its keys as a dict, or a sweep made in memory.
        overrides: further overrides for every member; they give the sweep a name, and so a
            report, of its own.

    Returns:
        The plan.

    Raises:
        ConfigError: with everything that is wrong in the sweep file or in a member.
    """
    overrides = check_overrides(overrides)
    if isinstance(sweep, Mapping):
        file = parse_sweep(sweep)
    else:
        file = sweep if isinstance(sweep, SweepFile) else load_sweep(sweep)
    if overrides:
        digest = hashlib.sha256("\n".join(overrides).encode()).hexdigest()[:6]
        own = {"name": f"{file.name}-{digest}", "overrides": (*file.overrides, *overrides)}
        file = replace(file, **own)  # type: ignore[arg-type]
    plan_probe(file, plan_members)
    file = with_steps(with_trials(file), plan_members)
    members = plan_members(file)
    graph = build_graph((member.label, member.chain) for member in members)
    mark_failed(graph)
    return SweepPlan(file, members, graph, find_changes(graph))


def plan_members(file: SweepFile, rows: Collection[str] | None = None) -> tuple[Member, ...]:
    """Plan every row of a sweep with every seed.

    Args:
        file: the sweep.
        rows: names of the rows that are planned; None = all.

    Returns:
        The members, row by row.

    Raises:
        ConfigError: with everything that is wrong in a member.
    """
    check_overrides_of(file)
    members, problems = [], {}
    with composing_once():
        for row, seed in itertools.product(file.rows(), file.seeds):
            if rows is not None and row.name not in rows:
                continue
            texts = [*file.overrides, *row.overrides, f"seed={seed}"]
            try:
                members.append(Member(row, seed, tuple(plan_chain(file.preset, texts))))
            except ConfigError as error:
                problems.update({str(problem): problem for problem in error.problems})
    if problems:
        raise ConfigError(list(problems.values()))
    first = {member.row.name: member.chain for member in reversed(members)}
    if refused := undone_problems(file, first):
        raise ConfigError(refused)
    _check_rows(file, members)
    if refused := [*loss_problems(file, first), *metric_problems(file, first)]:
        raise ConfigError(refused)
    return tuple(members)


def find_changes(graph: Graph) -> dict[str, list[str]]:
    """Name the files that differ now from those that finished runs used, by identity.

    Args:
        graph: the runs; those of today's code are left out.
    """
    return {
        identity: files
        for identity, run in graph.items()
        if run.done and (files := source_changes(run.folder))
    }


def _check_rows(file: SweepFile, members: Sequence[Member]) -> None:
    """Refuse rows of the same runs, whose differences would be 0 by themselves.

    Raises:
        ConfigError: with all of them.
    """
    rows: dict[tuple[str, ...], str] = {}
    problems = []
    for row in file.rows():
        runs = tuple(member.chain[-1].identity for member in members if member.row == row)
        first = rows.setdefault(runs, row.name)
        if runs and first != row.name:
            expected = f"rows that differ ({first!r} and {row.name!r} are the same runs)"
            fix = "take one out: what they vary changes nothing that shapes a result"
            problems.append(Problem("axes", None, expected, fix))
    if problems:
        raise ConfigError(problems)


def format_seconds(seconds: float) -> str:
    """Write a duration for people.

    Args:
        seconds: the duration.

    Returns:
        For example `45 s`, `12 min`, `3.5 h`.
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def format_count(count: int, noun: str) -> str:
    """Write a number of things.

    Args:
        count: how many.
        noun: one of them, with a plural in `s`.
    """
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
