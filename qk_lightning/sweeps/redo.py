"""`--redo`: which runs are trained again, and removing them once everything was checked.

Nothing is deleted while it is planned; `forget` alone deletes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from qk_lightning.config.chain import StagePlan
from qk_lightning.config.errors import ConfigError, Problem
from qk_lightning.config.find_runs import children_of
from qk_lightning.config.locks import LockHeld
from qk_lightning.config.run_folder import RunFolder
from qk_lightning.sweeps.graph import Graph, PlannedRun, descendants


def plan_redo(graph: Graph, identities: Iterable[str]) -> tuple[Graph, list[PlannedRun]]:
    """Plan to train runs again, and those that came after them. Deletes nothing.

    Args:
        graph: the runs, parents before children.
        identities: the runs to train again.

    Returns:
        The graph with those runs as not done, and those runs, parents before children.

    Raises:
        ConfigError: a run outside the graph needs one of them.
    """
    doomed: set[str] = set()
    outside: dict[str, RunFolder] = {}
    waiting = list(identities)
    while waiting:
        run = graph[waiting.pop()]
        if run.identity in doomed:
            continue
        doomed.add(run.identity)
        waiting += [item.identity for item in descendants(graph, run.identity)]
        for child in children_of(run.folder):
            if child.identity in graph:
                waiting.append(child.identity)
            else:
                _add_family(outside, child)
    if outside:
        raise ConfigError(_needed(outside))
    fresh = {
        identity: replace(run, done=False, progress=0.0) if identity in doomed else run
        for identity, run in graph.items()
    }
    return fresh, [run for run in fresh.values() if run.identity in doomed]


def _add_family(family: dict[str, RunFolder], run: RunFolder) -> None:
    """Add a run and all that need it, in the order in which they can be removed."""
    if run.name in family:
        return
    for child in children_of(run):
        _add_family(family, child)
    family[run.name] = run


def _needed(outside: Iterable[str]) -> Problem:
    names = list(outside)
    expected = f"runs that no others need, but these do: {', '.join(names)}"
    fix = "remove those first: " + " && ".join(f"qk runs rm {name}" for name in names)
    return Problem("--redo", None, expected, fix)


def as_new(runs: Iterable[PlannedRun]) -> list[StagePlan]:
    """Return the plans of runs for a check, as if none of them had a folder.

    A check skips what is done; a run that will be trained again is done until it is removed.

    Args:
        runs: runs that will be trained.
    """
    return [replace(run.plan, identity="") for run in runs]


def describe_redo(runs: Sequence[PlannedRun]) -> list[str]:
    """Say which finished or begun runs are removed first.

    Args:
        runs: the runs to train again.
    """
    names = [run.folder.name for run in runs if run.folder.has_config]
    return [f"redo: removed and trained again: {', '.join(names)}"] if names else []


def forget(runs: Sequence[PlannedRun]) -> None:
    """Remove the folders of runs, children first, so that no run outlives its parent.

    Args:
        runs: the runs, parents before children.

    Raises:
        ConfigError: a process trains one of them now.
    """
    for run in reversed(runs):
        if not run.folder.has_config:
            continue
        try:
            with run.folder.lock(wait=False):
                run.folder.remove()
        except LockHeld as error:
            expected, fix = "a run that is not in use", f"wait for it or stop it ({error})"
            raise ConfigError(Problem("--redo", run.folder.name, expected, fix)) from error
