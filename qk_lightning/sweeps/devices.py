"""What a run occupies while it trains, and what this machine has to give: GPUs and cores.

A run in a pool sees its own GPUs alone (CUDA_VISIBLE_DEVICES) and, where cores are given out, is
bound to its own. No torch here: a plan asks too.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass, field
from functools import cache

from omegaconf import DictConfig

VISIBLE = "CUDA_VISIBLE_DEVICES"
DEFAULT_SLOTS = 2
LIST_SECONDS = 20.0


@dataclass(frozen=True)
class Needs:
    """What one run occupies.

    Args:
        gpus: GPUs of its own; 0: it sees what its pool sees.
        cores: cores that it is bound to; 0: not bound.
    """

    gpus: int = 0
    cores: int = 0


@dataclass(frozen=True)
class Share:
    """What a run was given.

    Args:
        gpus: as CUDA_VISIBLE_DEVICES names them.
        cores: numbers of cores.
    """

    gpus: tuple[str, ...] = ()
    cores: tuple[int, ...] = ()

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables that show it to the run."""
        return {VISIBLE: ",".join(self.gpus)} if self.gpus else {}


@dataclass
class Devices:
    """The GPUs and cores that a pool gives out.

    Args:
        gpus: those that are free.
        cores: those that are free.
    """

    gpus: list[str] = field(default_factory=list)
    cores: list[int] = field(default_factory=list)

    def has(self, needs: Needs) -> bool:
        """Tell whether so much is free.

        Args:
            needs: what a run occupies.
        """
        return needs.gpus <= len(self.gpus) and needs.cores <= len(self.cores)

    def take(self, needs: Needs) -> Share:
        """Give devices to a run.

        Args:
            needs: what it occupies; so much must be free.

        Returns:
            Its own devices.
        """
        assert self.has(needs), "take() needs free devices"
        share = Share(tuple(self.gpus[: needs.gpus]), tuple(self.cores[: needs.cores]))
        del self.gpus[: needs.gpus], self.cores[: needs.cores]
        return share

    def give_back(self, share: Share) -> None:
        """Take devices back from a run that has ended.

        Args:
            share: what it was given.
        """
        self.gpus += share.gpus
        self.cores += share.cores


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    given = os.environ.get(VISIBLE)
    if given is None:
        return [str(index) for index in range(_count_gpus())]
    found: list[str] = []
    for name in (part.strip() for part in given.split(",")):
        if not name or name.startswith("-"):  # CUDA sees nothing from the first such one on
            break
        found.append(name)
    return found


@cache
def _count_gpus() -> int:
    command = shutil.which("nvidia-smi")
    if command is None:
        return 0
    words = [command, "--list-gpus"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=LIST_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.startswith("GPU ") for line in done.stdout.splitlines()) * (not done.returncode)


def visible_cores() -> list[int]:
    """Return the cores that this process may use."""
    return sorted(os.sched_getaffinity(0))


def gpus_of(cfg: DictConfig, gpus: int | None, are_there: bool) -> int:
    """Return how many GPUs a run is given.

    Args:
        cfg: its configuration.
        gpus: GPUs a run by the sweep file, None where it does not say.
        are_there: the machine has GPUs.
    """
    trainer = cfg.trainer
    accelerator, devices = trainer.get("accelerator", "auto"), int(trainer.get("devices", 1))
    if accelerator in ("cpu", "mps") or gpus == 0:
        return 0
    if gpus is None:
        return devices if are_there else 0
    return max(gpus, devices)
