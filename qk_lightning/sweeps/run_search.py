"""`qk sweep` of a file that searches: check, train trials, report, track.

The same order as `run.run_sweep`; what differs is that the rows are not known beforehand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from qk_lightning.config.errors import ConfigError, Problem
from qk_lightning.config.locks import FolderLock, LockHeld
from qk_lightning.sweeps.ended import SweepResult, describe_failures
from qk_lightning.sweeps.engine import local_pool
from qk_lightning.sweeps.execute import Outcome
from qk_lightning.sweeps.graph import build_graph
from qk_lightning.sweeps.kept import keep_sweep
from qk_lightning.sweeps.opening import Conduct, check_places
from qk_lightning.sweeps.plan import SweepPlan, plan_members, plan_sweep
from qk_lightning.sweeps.pool import Pool
from qk_lightning.sweeps.pool_jobs import experiments_of, log_sweep, prepare_members
from qk_lightning.sweeps.probe import plan_probe
from qk_lightning.sweeps.progress import make_progress
from qk_lightning.sweeps.report import REPORT_FILE, write_csv, write_report
from qk_lightning.sweeps.room import Room, check_room, needs_of, room_of
from qk_lightning.sweeps.search import Searcher
from qk_lightning.sweeps.study import Study, import_optuna
from qk_lightning.sweeps.trials import Trial, describe_search, read_trials, write_trials
from qk_lightning.tracking.mlflow_store import store_uri

FOLDER = "search"  # in the sweep's folder: the study, and the lock on it
TABLE = "trials.csv"


def run_search(plan: SweepPlan, redo: bool, conduct: Conduct) -> SweepResult:
    """Search until the trials are done, write the report, print the table.

    Args:
        plan: the sweep, with the rows of finished trials.
        redo: asked to train again what other code did, which a search cannot.
        conduct: how it is run.

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
    check_places(probe)
    folder = plan.folder / FOLDER
    try:
        with FolderLock(folder, wait=False):
            conduct.write(plan.describe())
            return _search(probe, folder, conduct)
    except LockHeld as error:
        expected = "a search that no other process runs"
        raise ConfigError(Problem("sweep", plan.file.name, expected, str(error))) from error


def _search(probe: SweepPlan, folder: Path, conduct: Conduct) -> SweepResult:
    keep_sweep(probe.file)
    study, file = Study(probe.file, folder), probe.file
    if conduct.retry:
        study.retry_failed()
    _keep(study, probe.folder)
    tracked, room = experiments_of(probe), room_of(file, probe.to_run)
    with local_pool(file, room, conduct.preload) as pool:
        searcher, outcome = _train(probe, study, pool, room, conduct)
        done = plan_sweep(replace(file, axes={}, listed=()))
        known = replace(done, graph={**searcher.graph, **done.graph})
        result = write_report(done, describe_failures(known, outcome))
        is_whole = tracked and done.members and not outcome.interrupted
        error = log_sweep(pool, done, result["inputs"]) if is_whole else ""
    uri = store_uri() if tracked else None
    ended = SweepResult(known, outcome, probe.folder / REPORT_FILE, result, uri, error)
    conduct.write("\n".join([*describe_search(file, indent="  "), "", ended.describe()]))
    return ended


def _train(
    probe: SweepPlan, study: Study, pool: Pool, room: Room, conduct: Conduct
) -> tuple[Searcher, Outcome]:
    """Train trials until there are enough, or Ctrl-C; return what holds their runs, and the end."""
    file, target = probe.file, conduct.target
    left = file.search.trials - len(read_trials(probe.folder)) if file.search else 0
    total = max(0, left) * len(probe.members[0].chain) * len(file.seeds)
    with make_progress(total, None, conduct.plain) as show:
        keep, needs = partial(_keep, study, probe.folder), needs_of(file, room)
        searcher = Searcher(file, study, keep, show, target, needs, conduct.fail_fast)
        try:
            prepare_members(pool, show, probe, target)
            return searcher, searcher.run(pool)
        except KeyboardInterrupt:
            pool.stop()
            return searcher, Outcome(interrupted=True)


def _keep(study: Study, folder: Path) -> None:
    """Write the trials where the report and a spreadsheet read them."""
    trials = study.trials()
    write_trials(folder, trials)
    write_csv(folder / TABLE, table_of(trials))


def table_of(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """Return a line for each trial, for `trials.csv`.

    Args:
        trials: all of a search.
    """
    return [
        {"trial": t.number, "state": t.state, **t.values, "value": t.value, "last_step": t.step}
        for t in trials
    ]
