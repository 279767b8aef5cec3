"""Running a sweep: plan, train what is not done, report, track.

Everything that `qk sweep` does is `run_sweep` here. This process imports neither torch nor
MLflow: members do, in processes from a fork server. When nothing is left to do none is started.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from qk_lightning.sweeps.ended import SweepResult, describe_failures
from qk_lightning.sweeps.engine import AS_THE_FILE_SAYS, RunOptions, engine_of, local_pool
from qk_lightning.sweeps.execute import RUN_STAGE, Executor, Outcome, begin
from qk_lightning.sweeps.failures import mark_failed
from qk_lightning.sweeps.file import SweepFile
from qk_lightning.sweeps.graph import PlannedRun, makespan
from qk_lightning.sweeps.kept import keep_sweep
from qk_lightning.sweeps.opening import Conduct, check_places
from qk_lightning.sweeps.plan import SweepPlan, plan_sweep
from qk_lightning.sweeps.pool import PRELOAD, Pool
from qk_lightning.sweeps.pool_jobs import experiments_of, log_sweep, prepare_members
from qk_lightning.sweeps.progress import make_progress
from qk_lightning.sweeps.redo import describe_redo, forget, plan_redo
from qk_lightning.sweeps.report import REPORT_FILE, write_report
from qk_lightning.sweeps.room import check_room, needs_of, room_of
from qk_lightning.tracking.mlflow_store import store_uri


def run_sweep(
    sweep: str | Path | SweepFile | SweepPlan,
    overrides: Sequence[str] = (),
    redo: bool = False,
    plain: bool | None = None,
    write: Callable[[str], None] = print,
    target: str = RUN_STAGE,
    preload: str = PRELOAD,
    options: RunOptions = AS_THE_FILE_SAYS,
) -> SweepResult:
    """Run a sweep: print its plan, train what is not done, write the report, print the table.

    Args:
        sweep: a sweep file's name or path, a sweep made in memory, or a plan.
        overrides: further overrides for every member (see `plan_sweep`).
        redo: train again what was done by other code, and what came after it; removed once all
            members were checked.
        plain: lines instead of the live display; None looks at the terminal.
        write: prints the plan and the result.
        target: "module:function" that trains a run folder.
        preload: module that the fork server imports before its first member.
        options: what is tried again, when a sweep gives up, and what trains its runs.

    Returns:
        The result; `exit_status` is what a command line returns.

    Raises:
        ConfigError: with everything that is wrong in the sweep file or in a member; or a run
            outside the sweep needs one that would be trained again.
    """
    plan = sweep if isinstance(sweep, SweepPlan) else plan_sweep(sweep, overrides)
    plan = with_options(plan, options)
    conduct = Conduct(plain, write, target, preload, options.fail_fast, options.retry)
    if plan.file.search is not None:
        from qk_lightning.sweeps.run_search import run_search

        return run_search(plan, redo, conduct)
    check_places(plan)
    doomed: list[PlannedRun] = []
    if redo:
        plan, doomed = redo_sweep(plan)
    check_room(plan.file, plan.to_start)
    write("\n".join([plan.describe(), *describe_redo(doomed)]))
    keep_sweep(plan.file)
    tracked = experiments_of(plan)
    with local_pool(plan.file, room_of(plan.file, plan.to_start), preload) as pool:
        outcome = _train(plan, doomed, pool, conduct)
        result = write_report(plan, describe_failures(plan, outcome))
        is_whole = tracked and not outcome.interrupted
        tracking_error = log_sweep(pool, plan, result["inputs"]) if is_whole else ""
    uri = store_uri() if tracked else None
    done = SweepResult(plan, outcome, plan.folder / REPORT_FILE, result, uri, tracking_error)
    write(done.describe())
    return done


def with_options(plan: SweepPlan, options: RunOptions) -> SweepPlan:
    """Return a plan as a command's options change it.

    Args:
        plan: the sweep.
        options: what is tried again, and what trains its runs.

    Raises:
        ConfigError: an option is wrong.
    """
    mark_failed(plan.graph, options.retry)
    return replace(plan, file=options.applied_to(plan.file))


def redo_sweep(plan: SweepPlan) -> tuple[SweepPlan, list[PlannedRun]]:
    """Plan to train again what was done by other code, and what came after it.

    Args:
        plan: the sweep.

    Returns:
        The plan with those runs as not done, and those runs. Nothing is deleted yet.

    Raises:
        ConfigError: a run outside the sweep needs one of them.
    """
    graph, doomed = plan_redo(plan.graph, plan.changes)
    return replace(plan, graph=graph, changes={}), doomed


def _train(plan: SweepPlan, doomed: Sequence[PlannedRun], pool: Pool, conduct: Conduct) -> Outcome:
    left, room = plan.to_start, room_of(plan.file, plan.to_start)
    if not left:
        return begin(plan.graph)
    show = make_progress(len(left), lambda: makespan(plan.graph, plan.slots), conduct.plain)
    with show as progress:
        try:
            prepare_members(pool, progress, plan, conduct.target)
        except KeyboardInterrupt:
            pool.stop()
            for run in doomed:
                run.done = run.folder.is_done
            return Outcome(interrupted=True)
        needs = needs_of(plan.file, room)
        executor = Executor(plan.graph, progress, conduct.target, needs, conduct.fail_fast)
        asked = {needs(run) for run in left}
        with engine_of(plan.file, room, pool, plan.folder, asked) as engine:
            forget(doomed)
            return executor.run(engine)
