"""Starting the ranks of a run, and running as one of them. No torch until a rank trains.

Ranks come from a fork server, like the members of a sweep: one that dies takes the others along,
and none outlives the process that started them. Under torchrun or SLURM nothing is started here.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from qk_lightning.config.rank_variables import is_of_another, rank_variables
from qk_lightning.config.run_folder import RunFolder
from qk_lightning.config.stop_signals import as_ctrl_c, remember
from qk_lightning.sweeps.pool import GRACE_SECONDS, STOP_SECONDS, Event, Pool
from qk_lightning.sweeps.worker import ERROR_FILE, LOG_FILE, Job

if TYPE_CHECKING:
    from qk_lightning.sweeps.graph import PlannedRun
    from qk_lightning.training.callbacks import Report

TRAIN_RANK = "qk_lightning.sweeps.launch:train_rank"
FOLDER = "ranks"  # in the run folder: a log and a traceback a rank
LAST_WORDS = 3.0  # seconds: the rank that fell is rarely the first to be heard


class RanksFailed(RuntimeError):  # noqa: N818 - it names a state, and reads so where it is caught
    """A rank of a run failed; the message names it, why, and its log."""


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
        RanksFailed: a rank failed; the message says what each one said.
        KeyboardInterrupt: this process or a rank was asked to stop; the running step is kept.
    """
    count, port = cfg.trainer.devices, _free_port()
    fates = _Fates(run)
    with as_ctrl_c(), Pool(count, max(1, _threads() // count)) as pool:
        try:
            for rank in range(count):
                folder = run.path / FOLDER / str(rank)
                folder.mkdir(parents=True, exist_ok=True)
                (folder / ERROR_FILE).unlink(missing_ok=True)
                arguments = (str(run.path), rank_variables(rank, count, port), seconds_before)
                pool.submit(Job(f"rank {rank}", TRAIN_RANK, arguments, folder, reports=True))
            fates.follow(pool, report)
        except KeyboardInterrupt:
            print("stopping: the ranks end their step and keep it", file=sys.stderr, flush=True)
            pool.terminate()
            fates.stopped.add("")
            fates.follow(pool, None, STOP_SECONDS)
        if fates.failed:
            pool.stop(LAST_WORDS)  # what still runs waits for the one that fell
    fates.tell()


@dataclass
class _Fates:
    """How the ranks of a run ended."""

    run: RunFolder
    failed: dict[str, str] = field(default_factory=dict)
    stopped: set[str] = field(default_factory=set)  # "": this process, which asked them all

    def follow(self, pool: Pool, report: Report | None, seconds: float = float("inf")) -> None:
        """Wait until all have ended, or until one has fallen and the others had time to say so."""
        deadline = time.monotonic() + seconds
        while pool.running and time.monotonic() < deadline:
            known = len(self.failed), len(self.stopped)
            for event in pool.events(timeout=0.5):
                self._take(event, report)
            if known == (0, 0) and self.stopped:  # the others end that step too
                deadline = min(deadline, time.monotonic() + GRACE_SECONDS)
            if not known[0] and self.failed:
                deadline = min(deadline, time.monotonic() + LAST_WORDS)

    def _take(self, event: Event, report: Report | None) -> None:
        if event.kind == "failed":
            self.failed[event.key] = str(event.data)
        elif event.kind == "stopped":
            if not self.stopped:
                remember(signal.SIGTERM)  # the one signal that a rank of ours listens to
            self.stopped.add(event.key)
        elif event.kind == "progress" and report is not None:
            report(event.data)

    def tell(self) -> None:
        """Raise what came of it: the rank that fell, before those that lost it."""
        lost = {rank for rank, error in self.failed.items() if is_of_another(error)}
        causes = self.failed.keys() - lost
        if self.stopped and not causes:
            raise KeyboardInterrupt
        if not self.failed:
            return
        said = [f"{rank}: {self.failed[rank]} ({self._log(rank)})" for rank in sorted(causes)]
        said += [f"{rank} lost the others: {self.failed[rank]}" for rank in sorted(lost)]
        raise RanksFailed("; ".join(said))

    def _log(self, rank: str) -> Path:
        return self.run.path / FOLDER / rank.removeprefix("rank ") / LOG_FILE


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


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _threads() -> int:
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdecimal() and int(given) else os.cpu_count() or 1
