"""How a sweep is run, and the engine that trains its runs: `--executor`.

ray and submitit are extras, and imported when they are used.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qk_lightning.config.errors import ConfigError
from qk_lightning.sweeps.devices import Devices, Needs
from qk_lightning.sweeps.execute import Engine
from qk_lightning.sweeps.failures import FAIL_FAST
from qk_lightning.sweeps.file import SweepFile
from qk_lightning.sweeps.pool import Pool
from qk_lightning.sweeps.room import Room, executor_problems


@dataclass(frozen=True)
class RunOptions:
    """How a sweep is run; nothing of it changes a result.

    Args:
        retry: try again what failed before.
        fail_fast: so many runs that fail alike stop the sweep; 0 for never.
        executor: `name` and settings of an engine; empty: as the sweep file says.
        slots: most runs at the same time; None: as the sweep file says.
        gpus: GPUs a run; None: as the sweep file says.
    """

    retry: bool = False
    fail_fast: int = FAIL_FAST
    executor: Mapping[str, Any] | None = None
    slots: int | None = None
    gpus: int | None = None

    def applied_to(self, file: SweepFile) -> SweepFile:
        """Return a sweep with these in place of its own.

        Args:
            file: the sweep.

        Raises:
            ConfigError: a value is wrong.
        """
        given = {"slots": self.slots, "gpus": self.gpus, "executor": self.executor}
        changed = {key: value for key, value in given.items() if value is not None}
        if problems := executor_problems(changed.get("executor", {})):
            raise ConfigError(problems)
        return replace(file, **changed)  # type: ignore[arg-type]


AS_THE_FILE_SAYS = RunOptions()


def local_pool(file: SweepFile, room: Room, preload: str) -> Pool:
    """Return this machine's pool; of a sweep that runs elsewhere, the one that checks it first.

    Args:
        file: the sweep.
        room: what it holds.
        preload: module that the fork server imports before its first member.
    """
    devices = Devices(list(room.gpus), list(room.cores)) if room.gpus or room.cores else None
    return Pool(room.slots or 1, file.threads, preload, devices)


@contextmanager
def engine_of(
    file: SweepFile, room: Room, pool: Pool, folder: Path, asked: Iterable[Needs]
) -> Iterator[Engine]:
    """Open what trains a sweep's runs.

    Args:
        file: the sweep.
        room: what its pool holds.
        pool: this machine's pool.
        folder: the sweep's folder.
        asked: what the runs will occupy.

    Yields:
        The pool itself, or that of another engine.

    Raises:
        ConfigError: the engine does not take the settings.
    """
    if room.name == "local":
        yield pool
        return
    given = {key: value for key, value in file.executor.items() if key != "name"}
    if room.name == "ray":
        from qk_lightning.sweeps.on_ray import RayPool as Other
    else:
        from qk_lightning.sweeps.on_submitit import SubmititPool as Other  # type: ignore[assignment]
    with Other(room.slots, file.threads, pool.preload, folder, given) as other:
        for needs in asked:
            other.check(needs)
        yield other
