"""Timing several ways of doing one thing side by side: turns go round, A B C A B C.

Each way has processes of its own, so that its memory is its own, and all stand ready while one
works: what else the machine does falls on all alike. No torch here.
"""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qk_lightning.config.rank_variables import rank_variables
from qk_lightning.sweeps.pool import Pool
from qk_lightning.sweeps.worker import Job

GO, END = b"g", b"e"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Entrant:
    """One way of doing it.

    Args:
        name: for people.
        target: "module:function" of each process, called with `arguments`, the variables of its
            rank ({} for a process alone), a bell and a report (`turns.Turns`).
        arguments: small and picklable.
        ranks: processes that do it together.
        group: entrants of one group are compared with its first.
    """

    name: str
    target: str
    arguments: tuple[Any, ...]
    ranks: int = 1
    group: str = ""


@dataclass
class Timing:
    """What an entrant took.

    Args:
        entrant: who.
        seconds: of a step, in each turn, of the slowest rank.
        turns: what else the first rank told of each turn, seconds of a step; among it `processor`,
            what the processor worked for it: what other processes take is not in it.
        memory: bytes by name, of the rank that held most.
        failed: why it could not be timed, "" where it was.
    """

    entrant: Entrant
    seconds: list[float] = field(default_factory=list)
    turns: list[dict[str, float]] = field(default_factory=list)
    memory: dict[str, int] = field(default_factory=dict)
    failed: str = ""

    @property
    def median(self) -> float:
        """Seconds of a step."""
        return statistics.median(self.seconds)

    @property
    def details(self) -> dict[str, float]:
        """The median over turns of each thing that was told."""
        names = dict.fromkeys(name for turn in self.turns for name in turn)
        return {
            name: statistics.median(turn[name] for turn in self.turns if name in turn)
            for name in names
        }


def side_by_side(
    entrants: Sequence[Entrant], repetitions: int, threads: int, say: Say = lambda _: None
) -> list[Timing]:
    """Time entrants in turns.

    Args:
        entrants: the first of a group is what its others are compared with.
        repetitions: turns of each.
        threads: of an entrant, shared by its ranks.
        say: told what goes on.

    Returns:
        A timing each, in order.
    """
    timings = [Timing(entrant) for entrant in entrants]
    with Arena(entrants, threads) as arena:
        for timing in timings:  # one by one: nothing else is built while one warms up
            say(f"{timing.entrant.name}: building")
            arena.start(timing)
        for number in range(repetitions):
            for timing in timings:
                if not timing.failed:
                    arena.turn(timing)
            say(f"turn {number + 1} of {repetitions}")
        for timing in timings:
            if not timing.failed:
                arena.end(timing)
    return timings


class Arena:
    """The processes of all entrants, and a bell each; a context manager.

    Args:
        entrants: all that will be started.
        threads: of an entrant.
    """

    def __init__(self, entrants: Sequence[Entrant], threads: int) -> None:
        self._pool = Pool(sum(entrant.ranks for entrant in entrants), threads)
        self._threads = threads
        self._open = contextlib.ExitStack()
        self._bells: dict[str, int] = {}

    def __enter__(self) -> Arena:
        """Make a folder for bells and logs."""
        self._folder = Path(self._open.enter_context(tempfile.TemporaryDirectory()))
        self._open.enter_context(self._pool)
        return self

    def __exit__(self, *error: object) -> None:
        """End all processes."""
        self._pool.stop(grace_seconds=2.0)  # there is nothing that they would have to keep
        self._open.close()
        for bell in self._bells.values():
            os.close(bell)

    def start(self, timing: Timing) -> None:
        """Start an entrant's processes and wait until they are ready for their first turn.

        Args:
            timing: receives what goes wrong.
        """
        entrant, port = timing.entrant, _free_port()
        place = len(self._bells)
        for rank, key in enumerate(_keys(entrant)):
            folder = self._folder / str(place + rank)
            folder.mkdir()
            os.mkfifo(folder / "bell")
            self._bells[key] = os.open(folder / "bell", os.O_RDWR)  # waits for no reader
            several = entrant.ranks > 1
            variables = rank_variables(rank, entrant.ranks, port) if several else {}
            variables["OMP_NUM_THREADS"] = str(max(1, self._threads // entrant.ranks))
            arguments = (*entrant.arguments, variables, str(folder / "bell"))
            self._pool.submit(Job(key, entrant.target, arguments, folder, reports=True))
        self._hear(timing, "ready")

    def turn(self, timing: Timing) -> None:
        """Let an entrant work once.

        Args:
            timing: receives the seconds.
        """
        self._ring(timing, GO)
        told = self._hear(timing, "ready")
        if not timing.failed:
            timing.seconds.append(max(message["seconds"] for message in told.values()))
            timing.turns.append(told[_keys(timing.entrant)[0]]["details"])

    def end(self, timing: Timing) -> None:
        """Let an entrant end.

        Args:
            timing: receives its memory.
        """
        self._ring(timing, END)
        told = [message["memory"] for message in self._hear(timing, "memory").values()]
        for name in told[0] if told else ():
            timing.memory[name] = max(memory[name] for memory in told)

    def _ring(self, timing: Timing, byte: bytes) -> None:
        for key in _keys(timing.entrant):
            os.write(self._bells[key], byte)

    def _hear(self, timing: Timing, what: str) -> dict[str, dict[str, Any]]:
        """Wait until all ranks of an entrant told something, or one of them failed."""
        missing, told = set(_keys(timing.entrant)), {}
        while missing and not timing.failed:
            for event in self._pool.events():
                if event.kind == "failed" and event.key in _keys(timing.entrant):
                    timing.failed = timing.failed or str(event.data)
                elif event.kind == "progress" and what in event.data:
                    told[event.key] = event.data
                    missing.discard(event.key)
        if timing.failed:
            self._dismiss(timing)
        return told

    def _dismiss(self, timing: Timing) -> None:
        for key in set(_keys(timing.entrant)) & set(self._pool.running):
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pool.pid(key), signal.SIGKILL)


def _keys(entrant: Entrant) -> list[str]:
    name = f"{entrant.group} {entrant.name}".strip()
    return [f"{name}, rank {rank}" for rank in range(entrant.ranks)]


def _free_port() -> int:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
