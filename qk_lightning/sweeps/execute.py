"""The executor: trains the runs of a graph in order of need, a few at a time.

What is done is never redone; a failed run takes its descendants along and nothing else, unless
runs fail alike. One whose worker is gone is handed in again. A sweep and a single chain go through
the same code, here and on other machines.
"""

from __future__ import annotations

import contextlib
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from qk_lightning.config.atomic import write_text
from qk_lightning.config.chain import StagePlan
from qk_lightning.config.errors import ConfigError, Problem
from qk_lightning.config.locks import LockHeld
from qk_lightning.config.rank_variables import started_rank
from qk_lightning.sweeps.devices import Needs
from qk_lightning.sweeps.failures import FailFast, keep_reason
from qk_lightning.sweeps.graph import (
    Graph,
    PlannedRun,
    build_graph,
    descendants,
    estimate,
    makespan,
    ready,
)
from qk_lightning.sweeps.pool import Event, Pool
from qk_lightning.sweeps.progress import PlainProgress, make_progress
from qk_lightning.sweeps.worker import ERROR_FILE, Job, run_once

if TYPE_CHECKING:
    from qk_lightning.training.callbacks import Report

RUN_STAGE = "qk_lightning.sweeps.stage:run_stage"
RUN_ONCE = "qk_lightning.sweeps.worker:run_once"
MAX_LOST = 3  # times that a run is handed in again because its worker was gone


class Engine(Protocol):
    """What trains runs: a pool of this machine's processes, or of others'."""

    @property
    def running(self) -> list[str]:
        """Keys of the jobs that run now."""

    def has_room(self, needs: Needs) -> bool:
        """Tell whether a job with such needs can start now."""

    def submit(self, job: Job) -> None:
        """Start a job."""

    def events(self, timeout: float = 1.0) -> Iterator[Event]:
        """Wait for news of the running jobs."""

    def stop(self) -> None:
        """End all running jobs; a run that trains ends its step and keeps it."""


@dataclass
class Outcome:
    """How the runs of a graph ended.

    Args:
        trained: identities of the runs that were trained now.
        found: identities of the runs that another process finished meanwhile.
        failed: error by identity.
        skipped: identity of the ancestor that is missing, by identity.
        stopped: what ended a run from outside, by identity; it goes on the next time.
        left: error by identity of the runs that failed before and were left as they are.
        given_up: why no further run was started, "" where all were.
        interrupted: the user stopped it.
    """

    trained: list[str] = field(default_factory=list)
    found: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    stopped: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    given_up: str = ""
    interrupted: bool = False

    @property
    def exit_status(self) -> int:
        """0 if all went well, 1 after failures, new or left, 130 if it was stopped."""
        if self.interrupted:
            return 130
        return 1 if self.failed or self.stopped or self.left else 0


class Executor:
    """Trains what is not done in a graph.

    Args:
        graph: the runs; each is marked as done when it is.
        progress: shows what happens.
        target: "module:function" that trains a run folder.
        needs: says what a run occupies.
        fail_fast: so many runs that fail alike end it; 0 for never.
    """

    def __init__(
        self,
        graph: Graph,
        progress: PlainProgress,
        target: str = RUN_STAGE,
        needs: Callable[[PlannedRun], Needs] = lambda _: Needs(),
        fail_fast: int = 0,
    ) -> None:
        self.graph = graph
        self.progress = progress
        self.target = target
        self.needs = needs
        self.outcome = begin(graph)
        self._alike = FailFast(fail_fast)
        self._lost: Counter[str] = Counter()

    def run(self, pool: Engine) -> Outcome:
        """Train all in a pool's processes.

        Args:
            pool: an open pool, of this machine or of others.

        Returns:
            How they ended. Ctrl-C ends the running ones and comes back with `interrupted`.

        Raises:
            ConfigError: this process is one of several that torchrun started.
        """
        if started_rank(1) is not None:
            expected = "one process: it starts those of its runs"
            fix = "use `qk fit` under torchrun, or start this without it"
            raise ConfigError(Problem("torchrun", None, expected, fix))
        try:
            while True:
                if not self.outcome.given_up:
                    self._start_what_fits(pool)
                if not pool.running:
                    return self.outcome
                for event in pool.events():
                    self._take(event)
        except KeyboardInterrupt:
            self.outcome.interrupted = True
            left = len(pool.running)
            runs = "1 run: it ends" if left == 1 else f"{left} runs: each ends"
            self.progress.say(f"stopping {runs} its step and keeps it; Ctrl-C again stops at once")
            with contextlib.suppress(KeyboardInterrupt):
                pool.stop()
            return self.outcome

    def run_here(self) -> Outcome:
        """Train all in this process, one after the other.

        Returns:
            How they ended. An error is written to the run's folder and comes through; Ctrl-C
            comes back with `interrupted`.
        """
        while runs := ready(self.graph):
            run = runs[0]
            self._start(run)
            try:
                trained = run_once(str(run.folder.path), self.target, self._reporter(run))
            except KeyboardInterrupt:
                self.outcome.interrupted = True
                return self.outcome
            except Exception as error:
                with contextlib.suppress(OSError):  # the disk may be what has failed
                    write_text(run.folder.path / ERROR_FILE, traceback.format_exc())
                self._take(Event(run.identity, "failed", f"{type(error).__name__}: {error}"))
                raise
            self._take(Event(run.identity, "done", trained))
        return self.outcome

    def _start_what_fits(self, pool: Engine) -> None:
        """Start runs, the most urgent first, until one does not fit: none is overtaken for ever."""
        outcome = self.outcome
        taken = [*pool.running, *outcome.failed, *outcome.stopped, *outcome.skipped]
        for run in _unheld_first(ready(self.graph, taken)) if pool.has_room(Needs()) else []:
            needs = self.needs(run)
            if not pool.has_room(needs):
                return
            self._start(run)
            arguments, folder = (str(run.folder.path), self.target), run.folder.path
            pool.submit(Job(run.identity, RUN_ONCE, arguments, folder, True, needs))

    def _start(self, run: PlannedRun) -> None:
        run.folder = run.plan.write()
        self.progress.start(run.identity, run.label)

    def _reporter(self, run: PlannedRun) -> Report:
        return lambda message: self._take(Event(run.identity, "progress", message))

    def _take(self, event: Event) -> None:
        run = self.graph[event.key]
        if event.kind == "progress":
            step, max_steps = event.data.get("step", 0), event.data.get("max_steps", 0)
            run.progress = min(1.0, step / max_steps) if max_steps else run.progress
            self.progress.update(event.key, event.data)
        elif event.kind == "done":
            self._finish(run, trained=bool(event.data))
        elif event.kind == "lost" and self._lost[event.key] < MAX_LOST:
            self._lost[event.key] += 1
            self.progress.give_back(run.identity, str(event.data))
        elif event.kind == "stopped":
            self._stopped(run, str(event.data))
        else:
            self._fail(run, str(event.data))

    def _finish(self, run: PlannedRun, trained: bool) -> None:
        run.done = True
        (self.outcome.trained if trained else self.outcome.found).append(run.identity)
        estimate(self.graph)  # a run more that is measured
        self.progress.finish(run.identity, "done" if trained else "found")

    def _fail(self, run: PlannedRun, error: str) -> None:
        # Another process may train it by now: the status is that one's, and nothing waits here.
        with contextlib.suppress(LockHeld, OSError), run.folder.lock(wait=False):
            if not run.folder.is_done:
                run.folder.write_status(state="failed", error=error)
                keep_reason(run.folder, error)
        if run.folder.is_done:
            self._finish(run, trained=False)
            return
        self.outcome.failed[run.identity] = error
        more = self._skip_after(run)
        self.progress.finish(run.identity, f"failed: {error}{more}; {run.folder.path}")
        if (reason := self._alike.add(run.label, error)) and not self.outcome.given_up:
            self.outcome.given_up = reason
            self.progress.say(reason)

    def _stopped(self, run: PlannedRun, why: str) -> None:
        """Leave a run that something else has stopped: it is no failure, and goes on next time."""
        if run.folder.is_done:
            self._finish(run, trained=False)
            return
        self.outcome.stopped[run.identity] = why
        self.progress.finish(run.identity, f"stopped: {why}{self._skip_after(run)}")

    def _skip_after(self, run: PlannedRun) -> str:
        after = [item for item in descendants(self.graph, run.identity) if not item.done]
        self.outcome.skipped.update({item.identity: run.identity for item in after})
        return f"; {len(after)} runs that need it are skipped" if after else ""


def begin(graph: Graph) -> Outcome:
    """Return how a graph stands before anything is trained: what failed before is left.

    Args:
        graph: the runs.
    """
    outcome = Outcome()
    for run in graph.values():
        if run.failed and not run.done:
            outcome.left[run.identity] = run.failed
            after = descendants(graph, run.identity)
            outcome.skipped |= {item.identity: run.identity for item in after if not item.done}
    return outcome


def _unheld_first(runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """Put what another sweep trains now last, so that two that share runs share the work too."""
    return sorted(runs, key=lambda run: run.folder.lock().is_held)


def run_chain(
    plans: Sequence[StagePlan],
    slots: int = 1,
    threads: int = 1,
    in_process: bool = True,
    plain: bool | None = None,
    target: str = RUN_STAGE,
) -> Outcome:
    """Train one chain of stages: `fit` is a sweep of one member.

    Args:
        plans: the chain, first ancestor first.
        slots: runs at the same time; a chain has one at most.
        threads: threads a run, for runs in processes of their own.
        in_process: train in this process (True) or in one from the fork server.
        plain: lines instead of the live display; None looks at the terminal.
        target: "module:function" that trains a run folder.

    Returns:
        How the runs ended.
    """
    graph = build_graph([("", plans)])
    left = sum(not run.done for run in graph.values())
    with make_progress(left, lambda: makespan(graph, slots), plain) as progress:
        executor = Executor(graph, progress, target)
        if in_process or not left:
            return executor.run_here()
        with Pool(slots, threads) as pool:
            return executor.run(pool)
