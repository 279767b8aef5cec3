"""What a sweep has done in its pool before its runs and after: checks, and what MLflow needs.

In processes of the pool, for they need torch or MLflow, which this process does without.
"""

from __future__ import annotations

from typing import Any

from qk_lightning.config.errors import ConfigError
from qk_lightning.sweeps.execute import RUN_STAGE
from qk_lightning.sweeps.plan import SweepPlan
from qk_lightning.sweeps.pool import Pool
from qk_lightning.sweeps.preflight import CHECK, texts_to_check
from qk_lightning.sweeps.progress import PlainProgress
from qk_lightning.sweeps.redo import as_new
from qk_lightning.sweeps.worker import Job
from qk_lightning.tracking.mlflow_runs import is_logged
from qk_lightning.tracking.mlflow_store import store_uri

ENSURE_STORE = "qk_lightning.tracking.mlflow_store:prepare_store"
LOG_SWEEP = "qk_lightning.tracking.mlflow_runs:show_sweep"


def experiments_of(plan: SweepPlan) -> list[str]:
    """Return the MLflow experiments that a sweep's runs are tracked in.

    Args:
        plan: the sweep.
    """
    tracking = [stage.cfg.tracking for member in plan.members for stage in member.chain]
    return sorted({str(node.experiment) for node in tracking if node.name == "mlflow"})


def prepare_members(pool: Pool, progress: PlainProgress, plan: SweepPlan, target: str) -> None:
    """Check that the parts of every member fit together, and make the stores that they track in.

    Args:
        pool: an open pool of this machine.
        progress: told what goes on.
        plan: the sweep.
        target: "module:function" that trains a run folder; parts of another than ours are its own.

    Raises:
        ConfigError: with everything that is wrong.
    """
    progress.say("loading the libraries, once for all runs")
    if target == RUN_STAGE:
        texts = texts_to_check(as_new(plan.to_start))
        if problems := _call(pool, Job("checking the members", CHECK, (texts,), plan.folder)):
            raise ConfigError(problems)
    for experiment in experiments_of(plan):  # members that made the store together would crash
        progress.say(f"MLflow store {store_uri()}, experiment {experiment}")
        if away := _call(pool, Job("MLflow store", ENSURE_STORE, (experiment,), plan.folder)):
            progress.say(f"MLflow does not answer; the runs do without it: {away}")


def log_sweep(pool: Pool, plan: SweepPlan, inputs: Any) -> str:
    """Write the sweep's own MLflow run, unless one of the same inputs is there.

    Args:
        pool: an open pool of this machine.
        plan: the sweep, with its report written.
        inputs: what the report was made of.

    Returns:
        Why it could not be written, "" if it was.
    """
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
