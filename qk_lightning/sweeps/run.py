"""Running a sweep: plan, train what is not done, report, track.

Everything that `qk sweep` does is `run_sweep` here. This process imports neither torch nor
MLflow: members do, in processes from a fork server. When nothing is left to do none is started.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qk_lightning.config.disk_space import check_writable
from qk_lightning.config.errors import ConfigError
from qk_lightning.sweeps.engine import AS_THE_FILE_SAYS, RunOptions, engine_of, local_pool
from qk_lightning.sweeps.execute import RUN_STAGE, Executor, Outcome, begin
from qk_lightning.sweeps.failures import mark_failed
from qk_lightning.sweeps.file import SweepFile
from qk_lightning.sweeps.graph import PlannedRun, makespan
from qk_lightning.sweeps.keep_file import keep_file
from qk_lightning.sweeps.plan import SweepPlan, plan_sweep
from qk_lightning.sweeps.pool import PRELOAD, Pool
from qk_lightning.sweeps.preflight import CHECK, texts_to_check
from qk_lightning.sweeps.progress import PlainProgress, make_progress
from qk_lightning.sweeps.redo import as_new, describe_redo, forget, plan_redo
from qk_lightning.sweeps.report import REPORT_FILE, write_report
from qk_lightning.sweeps.room import check_room, needs_of, room_of
from qk_lightning.sweeps.worker import Job
from qk_lightning.tracking.mlflow_missed import count_missed
from qk_lightning.tracking.mlflow_runs import is_logged
from qk_lightning.tracking.mlflow_store import check_tracking, store_uri

ENSURE_STORE = "qk_lightning.tracking.mlflow_store:prepare_store"
LOG_SWEEP = "qk_lightning.tracking.mlflow_runs:show_sweep"


@dataclass(frozen=True)
class SweepResult:
    """A sweep after its runs.

    Args:
        plan: the sweep, with what is done marked in its graph.
        outcome: how the runs ended.
        report: the report in Markdown.
        result: what `result.json` holds; its `summary` is the table as text.
        mlflow_uri: address of the MLflow store, None where tracking is off.
        tracking_error: why the sweep's own MLflow run could not be written, "" if it was.
    """

    plan: SweepPlan
    outcome: Outcome
    report: Path
    result: dict[str, Any]
    mlflow_uri: str | None
    tracking_error: str = ""

    @property
    def exit_status(self) -> int:
        """0 if all went well, 1 after failures, 130 if it was stopped; MLflow is only a view."""
        return self.outcome.exit_status

    def describe(self) -> str:
        """Say how it went: the table, failures, where report and store are."""
        lines = [self.result["summary"] or "no finished run has one of the sweep's metrics yet", ""]
        lines += describe_failures(self.plan, self.outcome)
        lines += describe_again(self.plan, self.outcome)
        if self.outcome.interrupted:
            lines.append("stopped; finished runs are kept, and the same command goes on from here")
        lines += [f"not in MLflow: {self.tracking_error}"] if self.tracking_error else []
        if missed := count_missed(run.folder for run in self.plan.graph.values()):
            lines.append(f"MLflow lacks some of {missed} runs: qk track sync")
        lines.append(f"report  {self.report}")
        if self.mlflow_uri:
            lines.append(f"MLflow  {self.mlflow_uri}")
            lines.append("        qk ui")
        return "\n".join(lines)


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
    if plan.file.search is not None:
        from qk_lightning.sweeps.run_search import run_search

        how = (options.fail_fast, options.retry)
        return run_search(plan, redo, plain, write, target, preload, *how)
    for member in plan.members:
        for stage in member.chain:
            check_tracking(stage.cfg)
            check_writable(stage.folder.path)
    doomed: list[PlannedRun] = []
    if redo:
        plan, doomed = redo_sweep(plan)
    check_room(plan.file, plan.to_start)
    write("\n".join([plan.describe(), *describe_redo(doomed)]))
    keep_file(plan.file, plan.folder)
    tracked = _experiments(plan)
    room = room_of(plan.file, plan.to_start)
    with local_pool(plan.file, room, preload) as pool:
        outcome = _train(plan, doomed, pool, plain, target, tracked, options.fail_fast)
        result = write_report(plan, describe_failures(plan, outcome))
        is_whole = tracked and not outcome.interrupted
        tracking_error = _log(pool, plan, result["inputs"]) if is_whole else ""
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


def _train(
    plan: SweepPlan,
    doomed: Sequence[PlannedRun],
    pool: Pool,
    plain: bool | None,
    target: str,
    tracked: Sequence[str],
    fail_fast: int,
) -> Outcome:
    left, room = plan.to_start, room_of(plan.file, plan.to_start)
    if not left:
        return begin(plan.graph)
    show = make_progress(len(left), lambda: makespan(plan.graph, plan.slots), plain)
    with show as progress:
        # Members that made the store together would crash.
        progress.say("loading the libraries, once for all runs")
        try:
            if target == RUN_STAGE:
                _check(pool, plan)
            for experiment in tracked:
                _prepare(pool, progress, plan.folder, experiment)
        except KeyboardInterrupt:
            pool.stop()
            for run in doomed:
                run.done = run.folder.is_done
            return Outcome(interrupted=True)
        needs = needs_of(plan.file, room)
        executor = Executor(plan.graph, progress, target, needs, fail_fast)
        asked = {needs(run) for run in left}
        with engine_of(plan.file, room, pool, plan.folder, asked) as engine:
            forget(doomed)
            return executor.run(engine)


def _check(pool: Pool, plan: SweepPlan) -> None:
    """See that the parts of every member fit together, before the first one trains.

    Raises:
        ConfigError: with everything that is wrong.
    """
    texts = texts_to_check(as_new(plan.to_start))
    if problems := _call(pool, Job("checking the members", CHECK, (texts,), plan.folder)):
        raise ConfigError(problems)


def _prepare(pool: Pool, progress: PlainProgress, folder: Path, experiment: str) -> None:
    progress.say(f"MLflow store {store_uri()}, experiment {experiment}")
    if away := _call(pool, Job("MLflow store", ENSURE_STORE, (experiment,), folder)):
        progress.say(f"MLflow does not answer; the runs do without it: {away}")


def _log(pool: Pool, plan: SweepPlan, inputs: Any) -> str:
    """Write the sweep's own MLflow run, unless one of the same inputs is there; say why not."""
    if is_logged(plan.folder, inputs):
        return ""
    try:
        return str(_call(pool, Job("sweep in MLflow", LOG_SWEEP, (str(plan.folder),), plan.folder)))
    except RuntimeError as error:
        return str(error)


def _call(pool: Pool, job: Job) -> Any:
    """Do one job, wait for it, and return its result.

    Raises:
        RuntimeError: it failed; the job's folder has the traceback.
    """
    result = None
    pool.submit(job)
    while pool.running:
        for event in pool.events():
            if event.kind == "failed":
                raise RuntimeError(f"{job.key}: {event.data} (see {job.folder / 'error.txt'})")
            if event.kind == "done":
                result = event.data
    return result


def _experiments(plan: SweepPlan) -> list[str]:
    """Return the MLflow experiments that the sweep's runs are tracked in."""
    tracking = [stage.cfg.tracking for member in plan.members for stage in member.chain]
    return sorted({str(node.experiment) for node in tracking if node.name == "mlflow"})


def describe_failures(plan: SweepPlan, outcome: Outcome) -> list[str]:
    """Name the runs that failed, and those that were skipped for it.

    Args:
        plan: the sweep.
        outcome: how its runs ended.
    """
    lines = []
    for identity, error in {**outcome.left, **outcome.failed}.items():
        run, when = plan.graph[identity], " before" * (identity in outcome.left)
        lines.append(f"failed{when}: {run.label}: {error}; traceback and log in {run.folder.path}")
        skipped = [plan.graph[item].label for item, cause in outcome.skipped.items()
                   if cause == identity]  # fmt: skip
        if skipped:
            lines.append(f"skipped for it: {', '.join(skipped)}")
    return lines


def describe_again(plan: SweepPlan, outcome: Outcome) -> list[str]:
    """Say why runs were not started, what was stopped from outside, and how to try failures again.

    Args:
        plan: the sweep.
        outcome: how its runs ended.
    """
    stopped = [f"stopped: {plan.graph[identity].label}: {why}; the same command goes on with it"
               for identity, why in outcome.stopped.items()]  # fmt: skip
    given_up = [f"given up: {outcome.given_up}"] if outcome.given_up else []
    again = []
    if outcome.failed or outcome.left:
        command = plan.command("--retry failed")
        again = [f"what failed is left as it is until it is asked for: {command}"]
    return [*stopped, *given_up, *again]
