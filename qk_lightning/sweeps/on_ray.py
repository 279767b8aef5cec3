"""Runs as tasks of a Ray cluster, whose machines share the folder of runs (extra `ray`).

Ray gives each run its cores and GPUs. It repeats nothing: a task whose worker or machine died is
`lost`, and the sweep hands its run in again.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qk_lightning.config.errors import ConfigError, Problem
from qk_lightning.config.stop_signals import STOP_SIGNALS
from qk_lightning.sweeps.devices import Needs
from qk_lightning.sweeps.remote import STOPPED, Keeper, RemotePool

# A local cluster reports to nobody, and members find GPUs as Ray gives them.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")


class RayPool(RemotePool):
    """Hands jobs to a Ray cluster; starts one on this machine where none runs.

    Args:
        slots: most tasks at the same time; 0: as many as the cluster's machines hold.
        threads: threads of a run.
        preload: module that a run imports first.
        folder: shared folder for the file that stops all.
        settings: `address` of the cluster; without one `$RAY_ADDRESS`, a cluster that runs on this
            machine, or a new one.
    """

    def __init__(
        self, slots: int, threads: int, preload: str, folder: Path, settings: Mapping[str, Any]
    ) -> None:
        super().__init__(slots, threads, preload, folder)
        self.address = settings.get("address")
        self._needs: dict[str, Needs] = {}
        self._began = False

    def __enter__(self) -> RayPool:
        """Connect.

        Raises:
            ConfigError: there is no cluster at the address.
        """
        import ray

        if not ray.is_initialized():
            with _own_signals():
                try:
                    ray.init(
                        address=self.address,
                        log_to_driver=False,
                        include_dashboard=False,
                        logging_level=logging.WARNING,
                    )
                except (ConnectionError, ValueError) as error:
                    expected = f"the address of a Ray cluster ({_line(error)})"
                    fix = "start one: ray start --head; or leave the address out"
                    problem = Problem("executor.address", self.address, expected, fix)
                    raise ConfigError(problem) from error
            self._began = True
        return self

    def __exit__(self, *error: Any) -> None:
        """Stop what still runs, and disconnect."""
        import ray

        try:
            super().__exit__(*error)
        finally:
            if self._began:
                ray.shutdown()

    def check(self, needs: Needs) -> None:
        """See that a machine of the cluster can hold a run.

        Args:
            needs: what the run occupies.

        Raises:
            ConfigError: none can.
        """
        if not any(self._fits(node, needs) for node in self._nodes()):
            most = [f"{node.get('CPU', 0):.0f} cores and {node.get('GPU', 0):.0f} GPUs"
                    for node in self._nodes()]  # fmt: skip
            asked = f"{self._cores(needs)} cores and {needs.gpus} GPUs"
            expected = f"what a machine of the Ray cluster has ({'; '.join(most)})"
            raise ConfigError(Problem("a run", asked, expected, "ask for less, or add a machine"))

    def has_room(self, needs: Needs) -> bool:
        """Tell whether the cluster, as it is now, holds a run more.

        Args:
            needs: what it would occupy.
        """
        if self.slots:
            return super().has_room(needs)
        held = sum(self._fits(node, needs) for node in self._nodes())
        return len(self._jobs) < max(1, held)  # one waits where all machines are gone for now

    def _cores(self, needs: Needs) -> int:
        return max(needs.cores, self.threads)

    def _fits(self, node: Mapping[str, float], needs: Needs) -> int:
        """Return how many runs a machine holds."""
        held = node.get("CPU", 0) // self._cores(needs)
        return int(min(held, node.get("GPU", 0) // needs.gpus) if needs.gpus else held)

    def _nodes(self) -> list[dict[str, float]]:
        import ray

        cluster: Any = ray  # `nodes` has no types
        return [node["Resources"] for node in cluster.nodes() if node["Alive"]]

    def _start(self, keeper: Keeper) -> Any:
        import ray

        needs = keeper.job.needs
        options = {"num_cpus": self._cores(needs), "num_gpus": needs.gpus, "max_retries": 0}
        name = {"name": f"{keeper.job.folder.name}"}
        return ray.remote(_keep).options(**options, **name).remote(keeper)

    def _fate(self, handle: Any) -> tuple[str, Any] | None:
        import ray
        from ray import exceptions

        done, _ = ray.wait([handle], timeout=0)
        if not done:
            return None
        try:
            kind, data = ray.get(handle)
        except exceptions.TaskCancelledError:
            return STOPPED
        except exceptions.OutOfMemoryError as error:
            return "failed", f"OutOfMemoryError: {_line(error)}"
        except exceptions.RayTaskError as error:
            return "failed", f"{type(error.cause).__name__}: {_line(error.cause)}"
        except exceptions.RayError as error:
            return "lost", f"{type(error).__name__}: {_line(error).partition('. ')[0]}"
        return kind, data

    def _is_waiting(self, handle: Any) -> bool:
        return False  # `ray.cancel` would interrupt one that has just begun; it looks at the file

    def _phase(self, handle: Any) -> str:
        return "on Ray"

    def _cancel(self, handle: Any) -> None:
        import ray

        ray.cancel(handle, force=True)


def _keep(keeper: Keeper) -> tuple[str, Any]:
    if keeper.stop_file.exists():
        return STOPPED
    return keeper()


def _line(error: BaseException | None) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else "(no message)"


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep this process's answers to signals: Ray sets its own."""
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
