"""Training one preset and its missing ancestors from a notebook or a script.

Runs train in a process of their own: the notebook's memory stays free, a crash leaves it alone, and
parts that were edited since the last call are seen.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from qk_lightning.api.runs import Run
from qk_lightning.cli.train import describe_chain
from qk_lightning.config.arguments import check_counts
from qk_lightning.config.chain import StagePlan, plan_chain
from qk_lightning.config.errors import ConfigError, Problem
from qk_lightning.config.paths import runs_root
from qk_lightning.config.schema import schema_of
from qk_lightning.sweeps.execute import Executor, Outcome
from qk_lightning.sweeps.graph import Graph, PlannedRun, build_graph, makespan
from qk_lightning.sweeps.pool import Pool
from qk_lightning.sweeps.preflight import CHECK, texts_to_check
from qk_lightning.sweeps.progress import make_progress
from qk_lightning.sweeps.redo import as_new, describe_redo, forget, plan_redo
from qk_lightning.sweeps.worker import Job
from qk_lightning.tracking.mlflow_store import check_tracking
from qk_lightning.tracking.provenance import source_changes


def fit(
    preset: str | Path,
    overrides: Sequence[str] = (),
    *,
    redo: bool = False,
    threads: int | None = None,
    plain: bool | None = None,
    write: Callable[[str], None] = print,
) -> Run:
    """Train a preset and the ancestors that are missing; what is done is not done again.

    Args:
        preset: a preset's name such as `laptop/stage1`, or a YAML file.
        overrides: `key=value` texts, such as `connector=enc_proj` or `stage1.optimizer.lr=1e-3`.
        redo: train again what was done by other code, and what came after it.
        threads: threads of the run; None takes $OMP_NUM_THREADS, else one for each core.
        plain: lines instead of a live display; None looks at the terminal (a notebook gets lines).
        write: prints the plan.

    Returns:
        The run of the preset itself, finished.

    Raises:
        ConfigError: with everything that is wrong, before anything is trained.
        RuntimeError: a run failed; the message says where its traceback is.
        KeyboardInterrupt: it was stopped; the same call goes on from the last checkpoints.
    """
    see_edits()
    check_counts(["threads"], threads=threads)
    plans = plan_chain(preset, overrides)
    for plan in plans:
        check_tracking(plan.cfg)
    graph, doomed = build_graph([("", plans)]), []
    if redo:
        changed = [plan.identity for plan in plans if source_changes(plan.folder)]
        graph, doomed = plan_redo(graph, changed)
    write("\n".join([*describe_chain(list(graph.values())), *describe_redo(doomed)]))
    outcome = _train(graph, doomed, threads or _threads(), plain)
    if outcome.interrupted:
        raise KeyboardInterrupt("stopped; the same call goes on from the last checkpoints")
    for identity, error in outcome.failed.items():
        folder = graph[identity].folder.path
        raise RuntimeError(f"{graph[identity].label}: {error}; traceback and log in {folder}")
    return Run(plans[-1].folder.path)


def describe_plan(preset: str | Path, overrides: Sequence[str] = ()) -> str:
    """Say which stages of a chain would run, and which are done.

    Args:
        preset: a preset's name, or a YAML file.
        overrides: `key=value` texts.

    Returns:
        A line a stage, and the estimated time where one is known.

    Raises:
        ConfigError: with everything that is wrong.
    """
    see_edits()
    graph = build_graph([("", plan_chain(preset, overrides))])
    return "\n".join(describe_chain(list(graph.values())))


def see_edits() -> None:
    """Forget what was read of parts' sources: a cell may have written them anew."""
    importlib.invalidate_caches()
    schema_of.cache_clear()


def _threads() -> int:
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdecimal() and int(given) else os.cpu_count() or 1


def _train(graph: Graph, doomed: list[PlannedRun], threads: int, plain: bool | None) -> Outcome:
    left = [run for run in graph.values() if not run.done]
    if not left:
        return Outcome()
    show = make_progress(len(left), lambda: makespan(graph, 1), plain)
    with show as progress, Pool(1, threads) as pool:
        progress.say("loading the libraries")
        if problems := _problems(pool, as_new(left)):
            raise ConfigError(problems)
        forget(doomed)
        return Executor(graph, progress).run(pool)


def _problems(pool: Pool, plans: Sequence[StagePlan]) -> list[Problem]:
    """Check in the process of a run that parts fit together: this one may hold older code.

    Raises:
        RuntimeError: the check itself failed.
    """
    folder = runs_root() / "cache" / "checks"
    pool.submit(Job("checking the run", CHECK, (texts_to_check(plans),), folder))
    found: list[Problem] = []
    while pool.running:
        for event in pool.events():
            if event.kind == "failed":
                raise RuntimeError(f"{event.key}: {event.data} (see {folder / 'error.txt'})")
            found = event.data or found
    return found
