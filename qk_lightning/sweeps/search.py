"""Searching: Optuna proposes a row, the executor trains it like any, and its result is told.

A trial is a row of the sweep with all seeds, so its runs have the identities that a grid would give
them: one that is equal to a finished run is not trained again. A few trials are open at a time.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from qk_lightning.config.errors import ConfigError
from qk_lightning.config.locks import LockHeld
from qk_lightning.sweeps.devices import Needs
from qk_lightning.sweeps.execute import Engine, Executor, Outcome
from qk_lightning.sweeps.file import SweepFile
from qk_lightning.sweeps.graph import PlannedRun, build_graph
from qk_lightning.sweeps.plan import plan_members
from qk_lightning.sweeps.pool import Event, Pool
from qk_lightning.sweeps.progress import PlainProgress
from qk_lightning.sweeps.study import Study
from qk_lightning.sweeps.trials import (
    COMPLETE,
    FAILED,
    PRUNED,
    Trial,
    row_of,
)

LOSS = "val/loss"


@dataclass(frozen=True)
class _Open:
    """A trial that is trained: its runs by identity, and the last one of each seed, in order."""

    trial: Trial
    runs: tuple[str, ...]
    last: tuple[str, ...]


class Searcher(Executor):
    """Trains trials until there are enough.

    Args:
        file: the sweep, with its search.
        study: proposes trials and keeps what came of them.
        keep: called whenever a trial begins or ends.
        progress: shows what happens.
        target: "module:function" that trains a run folder.
        needs: says what a run occupies.
        fail_fast: so many runs that fail alike end it; 0 for never.
    """

    def __init__(
        self,
        file: SweepFile,
        study: Study,
        keep: Callable[[], None],
        progress: PlainProgress,
        target: str,
        needs: Callable[[PlannedRun], Needs],
        fail_fast: int = 0,
    ) -> None:
        super().__init__({}, progress, target, needs, fail_fast)
        self.file, self.study, self.keep = file, study, keep
        self._open: dict[int, _Open] = {}
        self._pruned: set[str] = set()
        self._pool: Pool | None = None

    def run(self, pool: Engine) -> Outcome:
        """Train trials in a pool's processes, as many at a time as it has slots.

        Args:
            pool: an open pool of this machine.

        Returns:
            How their runs ended; pruned ones are in none of its lists.
        """
        assert isinstance(pool, Pool), "a pruned run is ended by a signal"
        self._pool = pool
        self._fill()
        outcome = super().run(pool)
        for identity in self._pruned:
            outcome.skipped.pop(identity, None)
        return outcome

    def _fill(self) -> None:
        """Open trials while there is room."""
        assert self._pool is not None
        while len(self._open) < self._pool.slots and (trial := self.study.next()):
            self._begin(trial)
            self._settle()
            self.keep()

    def _begin(self, trial: Trial) -> None:
        row = row_of(trial.values, trial.number)
        only = replace(self.file, axes={}, listed=(row,), baseline={})
        try:
            members = plan_members(only)
        except ConfigError as error:
            self.progress.say(f"failed  {row.name}: {error}")
            self.study.tell(trial.number, FAILED)
            return
        for identity, run in build_graph((m.label, m.chain) for m in members).items():
            known = self.graph.setdefault(identity, run)
            if known is not run:
                known.users += run.users
            if identity in self._pruned and not known.done:  # this trial wants it after all
                self._pruned.discard(identity)
                self.outcome.skipped.pop(identity, None)
        runs = dict.fromkeys(plan.identity for member in members for plan in member.chain)
        last = dict.fromkeys(member.chain[-1].identity for member in members)
        self._open[trial.number] = _Open(trial, tuple(runs), tuple(last))

    def _take(self, event: Event) -> None:
        run = self.graph[event.key]
        if event.key in self._pruned and event.kind in ("failed", "stopped"):
            self._note_pruned(run)
        else:
            super()._take(event)
        if event.kind == "progress":
            self._look_at(run)
            return
        self._settle()
        self._fill()

    def _settle(self) -> None:
        """Tell the study of trials that have ended."""
        for number, trial in list(self._open.items()):
            lost = {*self.outcome.failed, *self.outcome.skipped}.intersection(trial.runs)
            if lost:
                self.study.tell(number, FAILED)
            elif all(self.graph[identity].done for identity in trial.last):
                values = [self._value(self.graph[identity]) for identity in trial.last]
                self.study.tell(number, COMPLETE, math.fsum(values) / len(values))
            else:
                continue
            del self._open[number]
            self.keep()

    def _value(self, run: PlannedRun) -> float:
        assert self.file.search is not None
        return run.folder.last_metrics().get(self.file.search.metric, math.nan)

    def _look_at(self, run: PlannedRun) -> None:
        """Report what a run has validated, and prune its trial if that is worse than others'."""
        assert self.file.search is not None
        if self.file.search.pruner == "none" or run.identity in self._pruned:
            return
        for number, trial in list(self._open.items()):
            if trial.last[0] != run.identity:  # of several seeds the first is watched
                continue
            max_steps = int(run.plan.cfg.trainer.max_steps)
            found = [(row["step"], row["value"]) for row in run.folder.metrics()
                     if row["metric"] == LOSS and row["step"] < max_steps]  # fmt: skip
            bad = [step for step, value in found if self.study.report(number, step, value)]
            if found and bad and bad[-1] == found[-1][0]:
                self._prune(number, trial)

    def _prune(self, number: int, trial: _Open) -> None:
        """End a trial: its runs that no other trial needs stop after their step."""
        assert self._pool is not None
        del self._open[number]
        self.study.tell(number, PRUNED)
        self.keep()
        needed = {identity for other in self._open.values() for identity in other.runs}
        for identity in trial.runs:
            if self.graph[identity].done or identity in needed:
                continue
            self._pruned.add(identity)
            self.outcome.skipped[identity] = identity  # so that it is not started
            if identity in self._pool.running:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._pool.pid(identity), signal.SIGTERM)

    def _note_pruned(self, run: PlannedRun) -> None:
        """Keep a run as pruned: never as done; it goes on if something else needs it."""
        with contextlib.suppress(LockHeld, OSError), run.folder.lock(wait=False):
            if not run.folder.is_done:
                run.folder.write_status(state="pruned", error="")
        step: Any = run.folder.status.get("step", "?")
        self.progress.finish(run.identity, f"pruned: at step {step}")
