"""Runs as jobs of a queue, SLURM's above all, through submitit (extra `submitit`).

A job that is warned of its end (preemption, time limit) lets its run end the step and keep it, and
goes back into the queue. The sweep waits for its jobs; started again, it finds what they did.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from qk_lightning.config.errors import ConfigError, Problem
from qk_lightning.sweeps.devices import Needs
from qk_lightning.sweeps.remote import STOPPED, Keeper, RemotePool

FOLDER = "submitit"  # in the sweep's folder: what submitit writes of each job
MINUTES = 240
LOCAL = ("local", "debug")
PLAIN = ("timeout_min", "mem_gb", "name")  # the rest is SLURM's own: partition, account, qos, ...
WAITING = ("PENDING", "CONFIGURING", "REQUEUED", "RESIZING", "SUSPENDED")


class SubmititPool(RemotePool):
    """Hands jobs to a queue.

    Args:
        slots: most jobs in the queue at the same time; 0: all that can start.
        threads: threads of a run.
        preload: module that a run imports first.
        folder: shared folder of the sweep.
        settings: `cluster` (slurm | local; absent: SLURM where it is there), `timeout_min`,
            `mem_gb`, and any option of sbatch that submitit knows, such as `partition`.
    """

    def __init__(
        self, slots: int, threads: int, preload: str, folder: Path, settings: Mapping[str, Any]
    ) -> None:
        super().__init__(slots, threads, preload, folder)
        self.settings = dict(settings)
        self._folder = folder / FOLDER

    def check(self, needs: Needs) -> None:
        """See that submitit takes the settings; what the queue has, it says itself.

        Args:
            needs: what a run occupies.

        Raises:
            ConfigError: an option is unknown, or there is no such queue.
        """
        self._executor(needs)

    def _executor(self, needs: Needs) -> Any:
        import submitit

        settings = dict(self.settings)
        cluster = settings.pop("cluster", None)
        try:
            executor = submitit.AutoExecutor(folder=self._folder, cluster=cluster)
            executor.update_parameters(**self._parameters(needs, settings, executor.cluster))
        except (NameError, TypeError, ValueError, RuntimeError) as error:
            expected = f"what submitit takes ({_line(error)})"
            fix = "for example executor: {name: submitit, partition: gpu, timeout_min: 600}"
            raise ConfigError(Problem("executor", self.settings, expected, fix)) from error
        return executor

    def _parameters(
        self, needs: Needs, settings: Mapping[str, Any], cluster: str
    ) -> dict[str, Any]:
        plain = {key: value for key, value in settings.items() if key in PLAIN}
        own = {f"slurm_{key}": value for key, value in settings.items() if key not in PLAIN}
        asked: dict[str, Any] = {"timeout_min": MINUTES, "tasks_per_node": 1, "nodes": 1}
        asked["cpus_per_task"] = max(needs.cores, self.threads)
        asked["gpus_per_node"] = needs.gpus
        if cluster not in LOCAL:
            asked["name"] = "qk"
        return {**asked, **plain, **own}

    def _start(self, keeper: Keeper) -> Any:
        return self._executor(keeper.job.needs).submit(Queued(keeper))

    def _fate(self, handle: Any) -> tuple[str, Any] | None:
        from submitit.core.utils import FailedJobError, UncompletedJobError

        if not handle.done():
            return None
        try:
            kind, data = handle.result()
        except FailedJobError as error:
            return "failed", f"its job failed: {_last_line(error)}; see {handle.paths.stderr}"
        except UncompletedJobError:
            return _fate_of_state(str(handle.state), str(handle.job_id))
        return kind, data

    def _is_waiting(self, handle: Any) -> bool:
        return str(handle.state).upper() in WAITING

    def _phase(self, handle: Any) -> str:
        return f"job {handle.job_id} {str(handle.state).lower()}"

    def _cancel(self, handle: Any) -> None:
        handle.cancel(check=False)


class Queued:
    """A keeper as a job that may be interrupted: submitit calls `checkpoint` and requeues it.

    Args:
        keeper: does the job.
    """

    def __init__(self, keeper: Keeper) -> None:
        self.keeper = keeper

    def __call__(self) -> tuple[str, Any]:
        """Do the job, unless all are to stop; return how it ended."""
        return STOPPED if self.keeper.stop_file.exists() else self.keeper()

    def checkpoint(self) -> Any:
        """Let the run end its step and keep it; return the job as it is queued again."""
        from submitit.helpers import DelayedSubmission

        if self.keeper.pool is not None:
            self.keeper.pool.stop()
        return DelayedSubmission(Queued(replace(self.keeper, pool=None)))


def _fate_of_state(state: str, job: str) -> tuple[str, str]:
    """Return how a job ended that left no result, by what the queue says of it."""
    first = (state.upper().split() or ["UNKNOWN"])[0].rstrip("+")
    if first == "CANCELLED":
        return "stopped", f"job {job} was cancelled"
    if first in ("OUT_OF_MEMORY", "TIMEOUT", "DEADLINE"):
        return "failed", f"job {job} ended: {first}"
    return "lost", f"job {job} left no result: {state}"


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _last_line(error: BaseException) -> str:
    lines = [line.strip(" -|") for line in str(error).splitlines() if line.strip(" -|")]
    return lines[-1] if lines else type(error).__name__
