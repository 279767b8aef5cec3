"""The graph of runs: every run once, however many members need it, and how long it takes.

A run is a node by its identity; a run's parent comes before it. Members that agree up to a stage
share the runs up to there, and so do sweeps.
"""

from __future__ import annotations

import heapq
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from qk_lightning.config.chain import StagePlan
from qk_lightning.config.find_runs import list_runs
from qk_lightning.config.run_folder import RunFolder

FIXED_SHARE = 0.25  # of a preset's figure: loading, saving, scoring, however few the steps


@dataclass
class PlannedRun:
    """A run of the graph.

    Args:
        plan: the stage that it trains.
        folder: its run folder, which may not exist yet.
        parent: identity of the run that comes before it, None for a first stage.
        done: whether it was done when the graph was made, or is by now.
        users: labels of the members that need it.
        seconds: estimated time from its start to its end, None where nothing is known.
        measured: the estimate comes from runs of this root, not from the preset.
        progress: share of its steps that is trained, in [0, 1].
        failed: why it failed and is left as it is, "" where it is not.
    """

    plan: StagePlan
    folder: RunFolder
    parent: str | None
    done: bool
    users: list[str] = field(default_factory=list)
    seconds: float | None = None
    measured: bool = False
    progress: float = 0.0
    failed: str = ""

    @property
    def identity(self) -> str:
        """The run's identity."""
        return self.plan.identity

    @property
    def label(self) -> str:
        """The stage and the members it is for, in a few words."""
        first, *others = self.users or [""]
        more = f" and {len(others)} more" if others else ""
        return f"{self.plan.stage} {first}{more}".strip()

    @property
    def seconds_left(self) -> float:
        """Estimated time that is left; 0 for a run that is done or unknown."""
        return 0.0 if self.done else (self.seconds or 0.0) * (1.0 - self.progress)


Graph = dict[str, PlannedRun]


def build_graph(chains: Iterable[tuple[str, Sequence[StagePlan]]]) -> Graph:
    """Make the graph of several members' chains.

    Args:
        chains: a member's label and its plans, first ancestor first.

    Returns:
        Runs by identity, parents before children, with their estimated times.
    """
    graph: Graph = {}
    for label, chain in chains:
        for plan in chain:
            if plan.identity not in graph:
                folder = plan.folder
                parent = plan.parent.identity if plan.parent else None
                graph[plan.identity] = PlannedRun(plan, folder, parent, folder.is_done)
            graph[plan.identity].users.append(label)
    estimate(graph)
    return graph


def estimate(graph: Graph) -> None:
    """Fill in times: the median of like runs of this root, else the preset's own figure.

    The presets' figures are stretched to the run's own steps and batch, and by as much as the
    measured runs of this graph took longer than theirs.

    Args:
        graph: the runs; `seconds`, `measured` and `progress` are set.
    """
    measured: dict[tuple[str, int], list[float]] = {}
    for folder in list_runs():
        status = folder.status
        if status.get("state") == "done" and status.get("seconds"):
            key = (_name(folder), int(status.get("max_steps", 0)))
            measured.setdefault(key, []).append(float(status["seconds"]))
    stretched = []
    for run in graph.values():
        like = measured.get((_name(run.folder), int(run.plan.cfg.trainer.max_steps)))
        reference = run.plan.cfg.get("reference_seconds")
        if reference:
            fixed = FIXED_SHARE * reference
            reference = fixed + (reference - fixed) * run.plan.stretch
        run.measured = like is not None
        run.seconds = statistics.median(like) if like else reference
        if like and reference:
            stretched.append(run.seconds / reference)
        status = {} if run.done else run.folder.status
        if status.get("step") and status.get("max_steps"):
            run.progress = max(run.progress, min(1.0, status["step"] / status["max_steps"]))
    for run in graph.values():
        if stretched and not run.measured and run.seconds is not None:
            run.seconds *= statistics.median(stretched)


def _name(folder: RunFolder) -> str:
    return folder.name.rpartition("-")[0]


def ready(graph: Graph, taken: Iterable[str] = ()) -> list[PlannedRun]:
    """Return the runs that can start now, the most urgent first.

    The run with the longest chain of work behind it goes first: started last, that chain would
    keep one slot busy alone at the end. Runs of equal urgency keep the graph's order.

    Args:
        graph: the runs.
        taken: identities that run already, failed, or wait for one that failed.
    """
    taken = set(taken)
    urgency = chain_seconds(graph)
    waiting = [
        run
        for run in graph.values()
        if not (run.done or run.failed or run.identity in taken) and _parent_done(graph, run)
    ]
    return sorted(waiting, key=lambda run: -urgency[run.identity])


def _parent_done(graph: Graph, run: PlannedRun) -> bool:
    return run.parent is None or graph[run.parent].done


def chain_seconds(graph: Graph) -> dict[str, float]:
    """Return, by identity, the time of the longest chain that begins with each run.

    Args:
        graph: the runs, parents before children.
    """
    longest = {identity: run.seconds_left for identity, run in graph.items()}
    for identity, run in reversed(graph.items()):
        if run.parent is not None:
            through = graph[run.parent].seconds_left + longest[identity]
            longest[run.parent] = max(longest[run.parent], through)
    return longest


def descendants(graph: Graph, identity: str) -> list[PlannedRun]:
    """Return the runs that need a run, directly or not.

    Args:
        graph: the runs, parents before children.
        identity: the run they need.
    """
    found = {identity}
    for run in graph.values():
        if run.parent in found:
            found.add(run.identity)
    return [run for run in graph.values() if run.identity in found and run.identity != identity]


def left_alone(graph: Graph) -> list[PlannedRun]:
    """Return the runs that failed and are left as they are, and those that need them.

    Args:
        graph: the runs, parents before children.
    """
    found: set[str] = set()
    for run in graph.values():
        if not run.done and (run.failed or run.parent in found):
            found.add(run.identity)
    return [run for run in graph.values() if run.identity in found]


def makespan(graph: Graph, slots: int) -> float:
    """Estimate the time until all is done, by playing the schedule through.

    Args:
        graph: the runs.
        slots: runs at the same time.

    Returns:
        Seconds; runs of unknown length count as 0.
    """
    alone = {run.identity for run in left_alone(graph)}
    left = [run for run in graph.values() if not run.done and run.identity not in alone]
    urgency = chain_seconds(graph)
    finished = {identity for identity, run in graph.items() if run.done}
    running: list[tuple[float, str]] = []
    clock = 0.0
    while left or running:
        able = [run for run in left if run.parent is None or run.parent in finished]
        able.sort(key=lambda run: (-(run.progress > 0), -urgency[run.identity]))
        for run in able[: slots - len(running)]:
            left.remove(run)
            heapq.heappush(running, (clock + run.seconds_left, run.identity))
        clock, identity = heapq.heappop(running)
        finished.add(identity)
    return clock
