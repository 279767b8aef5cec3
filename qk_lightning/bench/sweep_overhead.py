"""What a sweep costs beside its training: planning it, and a member that does nothing.

Members are real ones, of a chain of three stages, in a root that vanishes; what trains them only
says that they are done. Beside them stand processes of the same pool that do nothing at all. No
torch here, and none in the members: libraries are a process's own start.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from qk_lightning.config.run_folder import RunFolder
from qk_lightning.sweeps.execute import Executor
from qk_lightning.sweeps.file import SweepFile
from qk_lightning.sweeps.plan import SweepPlan, plan_sweep
from qk_lightning.sweeps.pool import Pool
from qk_lightning.sweeps.progress import PlainProgress
from qk_lightning.sweeps.report import write_report
from qk_lightning.sweeps.worker import Job

DO_NOTHING = "qk_lightning.bench.sweep_overhead:do_nothing"
NOTHING = "qk_lightning.bench.sweep_overhead:nothing"
PRELOAD = "qk_lightning.bench.sweep_overhead"
PRESET = "laptop/stage3"
MEMBERS = 100
SEEDS = 10
PROCESSES = 40


@dataclass(frozen=True)
class Overhead:
    """What a sweep of members that do nothing took.

    Args:
        members: how many.
        runs: their runs, shared ones once.
        plan: seconds of planning.
        processor: what the processor worked of them: what other processes take is not in it.
        again: seconds of planning once more, in the same process.
        found: seconds of planning with all done.
        train: seconds of all runs, one after the other.
        process: seconds of a process of the same pool that does nothing, the median.
        report: seconds of writing the report.
    """

    members: int
    runs: int
    plan: float
    processor: float
    again: float
    found: float
    train: float
    process: float
    report: float

    @property
    def per_member(self) -> float:
        """Seconds that a member costs over its processes' own start."""
        return (self.train - self.runs * self.process) / self.members


def do_nothing(folder: str, report: object = None) -> None:
    """Say that a run is done.

    Args:
        folder: the run's folder.
        report: not used.
    """
    run = RunFolder(Path(folder))
    run.append_metrics(1, {"val/loss": 1.0})
    run.write_status(state="done", step=1, seconds=0.0)


def nothing() -> None:
    """Do nothing, in a process."""


def sweep_overhead(members: int = MEMBERS) -> Overhead:
    """Plan, run and report a sweep of members that do nothing.

    Args:
        members: how many; rounded to whole rows.

    Returns:
        What it took.
    """
    seeds = min(SEEDS, members)
    rates = tuple(1e-4 * (1 + row) for row in range(max(1, members // seeds)))
    axes: dict[str, tuple[object, ...]] = {"optimizer.lr": rates}
    file = SweepFile("overhead", PRESET, ("all.tracking.name=none",), axes,
                     seeds=tuple(range(seeds)), slots=1)  # fmt: skip
    with _root():
        began = time.process_time()
        plan, first = _timed_plan(file)
        processor = time.process_time() - began
        _, again = _timed_plan(file)
        with Pool(1, 1, PRELOAD) as pool:
            process = statistics.median(_processes(pool, plan.folder))
            began = time.perf_counter()
            Executor(plan.graph, PlainProgress(1, write=lambda _: None), DO_NOTHING).run(pool)
            train = time.perf_counter() - began
        done, found = _timed_plan(file)
        assert not done.to_run, "a run that does nothing is not done"
        began = time.perf_counter()
        write_report(done)
        report = time.perf_counter() - began
    members, runs = len(plan.members), len(plan.graph)
    return Overhead(members, runs, first, processor, again, found, train, process, report)


@contextmanager
def _root() -> Iterator[None]:
    """Work in a project root of its own, which vanishes."""
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, QK_ROOT=folder):
        yield


def _timed_plan(file: SweepFile) -> tuple[SweepPlan, float]:
    began = time.perf_counter()
    plan = plan_sweep(file)
    plan.describe()
    return plan, time.perf_counter() - began


def _processes(pool: Pool, folder: Path) -> Sequence[float]:
    """Return what processes that do nothing take, the first left out: it starts the fork server."""
    seconds = []
    for number in range(PROCESSES + 1):
        began = time.perf_counter()
        pool.submit(Job(f"nothing {number}", NOTHING, (), folder))
        while pool.running:
            list(pool.events())
        seconds.append(time.perf_counter() - began)
    return seconds[1:]


def overhead_table(overhead: Overhead) -> str:
    """Write what a sweep took.

    Args:
        overhead: of one sweep.

    Returns:
        A Markdown table.
    """
    rows = {
        f"plan {overhead.members} members, {overhead.runs} runs": f"{overhead.plan:.2f} s",
        "of that, the processor's work": f"{overhead.processor:.2f} s",
        "plan them again": f"{overhead.again:.2f} s",
        "plan them once all are done": f"{overhead.found:.2f} s",
        "all runs, one after the other": f"{overhead.train:.1f} s",
        "a process that does nothing": f"{1000 * overhead.process:.0f} ms",
        "a member over its processes' start": f"{1000 * overhead.per_member:.0f} ms",
        "a run beside such a process": f"{overhead.train / overhead.runs / overhead.process:.2f} x",
        "the report": f"{overhead.report:.1f} s",
    }
    lines = [
        "| what | time |",
        "|---|---:|",
        *(f"| {name} | {text} |" for name, text in rows.items()),
    ]
    return "\n".join(lines)
