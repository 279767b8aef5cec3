"""Starting the ranks of a run, and running as one of them. No torch until a rank trains.

Ranks come from a fork server, like the members of a sweep: one that dies takes the others along,
and none outlives the process that started them. Under torchrun or SLURM nothing is started here.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from qk_lightning.config.run_folder import RunFolder
from qk_lightning.sweeps.pool import Event, Pool
from qk_lightning.sweeps.worker import ERROR_FILE, Job

if TYPE_CHECKING:
    from qk_lightning.sweeps.graph import PlannedRun
    from qk_lightning.training.callbacks import Report

TRAIN_RANK = "qk_lightning.sweeps.launch:train_rank"
FOLDER = "ranks"  # in the run folder: a log and a traceback a rank
LAST_WORDS = 3.0  # seconds: the rank that fell is rarely the first to be heard


def started_rank(devices: int) -> int | None:
    """Return this process's rank if it was started with others, by torchrun or SLURM.

    Args:
        devices: `trainer.devices`; SLURM's tasks are ranks only where there are so many a node.

    Returns:
        The rank, or None for a process on its own.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return int(os.environ["RANK"])
    tasks, nodes = (os.environ.get(f"SLURM_{name}", "") for name in ("NTASKS", "NNODES"))
    is_step = "SLURM_STEP_ID" in os.environ and "SLURM_PROCID" in os.environ
    if devices > 1 and is_step and tasks and int(tasks) == devices * int(nodes or 1):
        return int(os.environ["SLURM_PROCID"])
    return None


def follow(runs: Iterable[PlannedRun]) -> int:
    """Take part, as any rank but the first, in all runs that the first one trains.

    Args:
        runs: first ancestor first.

    Returns:
        0.
    """
    from qk_lightning.sweeps.stage import train

    for run in runs:
        if not run.done:
            train(run.folder, run.plan.cfg, None, 0.0)
    return 0


def train_on_ranks(
    run: RunFolder, cfg: DictConfig, report: Report | None, seconds_before: float
) -> None:
    """Train a run in `trainer.devices` processes of this machine, and wait for them.

    Args:
        run: the run's folder, whose lock is held.
        cfg: its configuration.
        report: receives the first rank's progress.
        seconds_before: what the run had taken when it was last stopped.

    Raises:
        RuntimeError: a rank failed; the message says what each one said.
    """
    count, port = cfg.trainer.devices, _free_port()
    with Pool(count, max(1, _threads() // count)) as pool:
        for rank in range(count):
            folder = run.path / FOLDER / str(rank)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / ERROR_FILE).unlink(missing_ok=True)
            arguments = (str(run.path), rank_variables(rank, count, port), seconds_before)
            pool.submit(Job(f"rank {rank}", TRAIN_RANK, arguments, folder, reports=True))
        failed: dict[str, str] = {}
        while pool.running and not failed:
            for event in pool.events():
                _take(event, report, failed)
        deadline = time.monotonic() + LAST_WORDS
        while failed and pool.running and time.monotonic() < deadline:
            for event in pool.events(timeout=0.5):
                _take(event, None, failed)
    if failed:
        said = "; ".join(f"{rank}: {error}" for rank, error in sorted(failed.items()))
        raise RuntimeError(f"{said} (see {run.path / FOLDER})")


def _take(event: Event, report: Report | None, failed: dict[str, str]) -> None:
    if event.kind == "failed":
        failed[event.key] = str(event.data)
    elif event.kind == "progress" and report is not None:
        report(event.data)


def train_rank(
    folder: str, variables: dict[str, str], seconds_before: float, report: Report | None = None
) -> None:
    """Train as one rank of a run.

    Args:
        folder: the run's folder.
        variables: what torchrun would have set (`rank_variables`).
        seconds_before: what the run had taken when it was last stopped.
        report: receives progress; the first rank's alone is used.
    """
    from qk_lightning.sweeps.stage import train
    from qk_lightning.training.quiet import quiet_lightning

    os.environ.update(variables)
    quiet_lightning()
    run = RunFolder(Path(folder))
    train(run, run.config, report if variables["RANK"] == "0" else None, seconds_before)


def rank_variables(rank: int, count: int, port: int) -> dict[str, str]:
    """Return what torchrun sets for a process on one machine.

    Args:
        rank: the process, from 0.
        count: number of processes.
        port: a free port of this machine.
    """
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "GROUP_RANK": "0",
        "TORCHELASTIC_RUN_ID": "qk",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _threads() -> int:
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdecimal() and int(given) else os.cpu_count() or 1
