"""`qk sweep` of a file that searches: check, train trials, report, track.

The same order as `run.run_sweep`; what differs is that the rows are not known beforehand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from qk_lightning.config.disk_space import check_writable
from qk_lightning.config.errors import ConfigError, Problem
from qk_lightning.config.locks import FolderLock, LockHeld
from qk_lightning.sweeps.engine import local_pool
from qk_lightning.sweeps.execute import RUN_STAGE, Outcome
from qk_lightning.sweeps.graph import build_graph
from qk_lightning.sweeps.keep_file import keep_file
from qk_lightning.sweeps.plan import SweepPlan, plan_members, plan_sweep
from qk_lightning.sweeps.probe import plan_probe
from qk_lightning.sweeps.progress import make_progress
from qk_lightning.sweeps.report import REPORT_FILE, write_csv, write_report
from qk_lightning.sweeps.room import check_room, needs_of, room_of
from qk_lightning.sweeps.run import (
    SweepResult,
    _check,
    _experiments,
    _log,
    _prepare,
    describe_failures,
)
from qk_lightning.sweeps.search import Searcher
from qk_lightning.sweeps.study import Study, import_optuna
from qk_lightning.sweeps.trials import Trial, describe_search, read_trials, write_trials
from qk_lightning.tracking.mlflow_store import check_tracking, store_uri

FOLDER = "search"  # in the sweep's folder: the study, and the lock on it
TABLE = "trials.csv"


def run_search(
    plan: SweepPlan,
    redo: bool,
    plain: bool | None,
    write: Callable[[str], None],
    target: str,
    preload: str,
    fail_fast: int,
    retry: bool = False,
) -> SweepResult:
    """Search until the trials are done, write the report, print the table.

    Args:
        plan: the sweep, with the rows of finished trials.
        redo: asked to train again what other code did, which a search cannot.
        plain: lines instead of the live display; None looks at the terminal.
        write: prints what is to be searched, and the result.
        target: "module:function" that trains a run folder.
        preload: module that the fork server imports before its first member.
        fail_fast: so many runs that fail alike end it; 0 for never.
        retry: try again the values of trials that failed.

    Returns:
        The result; its plan has the rows of all finished trials.

    Raises:
        ConfigError: Optuna is not installed, another process runs the search, or other machines
            are asked to.
    """
    import_optuna()
    if redo:
        fix = "give the sweep another `name:`, or `qk fit ... --redo` single runs"
        raise ConfigError(Problem("--redo", True, "no search: its choices rest on its runs", fix))
    if (engine := plan.file.executor.get("name", "local")) != "local":
        fix = "run it here; a grid, a list or `zip` can run there"
        raise ConfigError(Problem("executor", engine, "local: a search runs on one machine", fix))
    members = plan_probe(plan.file, plan_members)
    graph = build_graph((member.label, member.chain) for member in members)
    probe = SweepPlan(plan.file, members, graph, {})
    check_room(probe.file, probe.to_run)
    for member in probe.members:
        for stage in member.chain:
            check_tracking(stage.cfg)
            check_writable(stage.folder.path)
    folder = plan.folder / FOLDER
    try:
        with FolderLock(folder, wait=False):
            write(plan.describe())
            return _search(plan, probe, folder, plain, write, target, preload, fail_fast, retry)
    except LockHeld as error:
        expected = "a search that no other process runs"
        raise ConfigError(Problem("sweep", plan.file.name, expected, str(error))) from error


def _search(
    plan: SweepPlan,
    probe: SweepPlan,
    folder: Path,
    plain: bool | None,
    write: Callable[[str], None],
    target: str,
    preload: str,
    fail_fast: int,
    retry: bool,
) -> SweepResult:
    file = plan.file
    keep_file(file, plan.folder)
    study = Study(file, folder)
    if retry:
        study.retry_failed()

    def keep() -> None:
        trials = study.trials()
        write_trials(plan.folder, trials)
        write_csv(plan.folder / TABLE, table_of(trials))

    keep()
    tracked = _experiments(probe)
    left = file.search.trials - len(read_trials(plan.folder)) if file.search else 0
    total = max(0, left) * len(probe.members[0].chain) * len(file.seeds)
    room = room_of(file, probe.to_run)
    with local_pool(file, room, preload) as pool, make_progress(total, None, plain) as show:
        searcher = Searcher(file, study, keep, show, target, needs_of(file, room), fail_fast)
        try:
            show.say("loading the libraries, once for all runs")
            if target == RUN_STAGE:
                _check(pool, probe)
            for experiment in tracked:
                _prepare(pool, show, plan.folder, experiment)
            outcome = searcher.run(pool)
        except KeyboardInterrupt:
            pool.stop()
            outcome = Outcome(interrupted=True)
        done = plan_sweep(replace(file, axes={}, listed=()))
        known = replace(done, graph={**searcher.graph, **done.graph})
        result = write_report(done, describe_failures(known, outcome))
        is_whole = tracked and done.members and not outcome.interrupted
        error = _log(pool, done, result["inputs"]) if is_whole else ""
    uri = store_uri() if tracked else None
    ended = SweepResult(known, outcome, plan.folder / REPORT_FILE, result, uri, error)
    write("\n".join([*describe_search(file, indent="  "), "", ended.describe()]))
    return ended


def table_of(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """Return a line for each trial, for `trials.csv`.

    Args:
        trials: all of a search.
    """
    return [
        {"trial": t.number, "state": t.state, **t.values, "value": t.value, "last_step": t.step}
        for t in trials
    ]
