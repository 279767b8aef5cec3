"""Progress of many runs: a live display in a terminal, plain lines everywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from qk_lightning.sweeps.plan import format_seconds

PLAIN_SECONDS = 30.0


class PlainProgress:
    """Prints a line when a run starts and ends, and one on all that run every half minute.

    Args:
        total: number of runs to do.
        seconds_left: estimates the time until all is done.
        write: takes each line.
    """

    def __init__(
        self,
        total: int,
        seconds_left: Callable[[], float] | None = None,
        write: Callable[[str], None] | None = None,
    ) -> None:
        self.total = total
        self.ended = 0
        self.seconds_left = seconds_left
        self._write = write or _print
        self._running: dict[str, tuple[str, float, dict[str, Any]]] = {}
        self._last = time.monotonic()

    def __enter__(self) -> PlainProgress:
        """Begin."""
        return self

    def __exit__(self, *error: object) -> None:
        """End."""

    def say(self, text: str) -> None:
        """Print a line.

        Args:
            text: the line.
        """
        self._write(text)

    def start(self, key: str, label: str) -> None:
        """Tell that a run starts.

        Args:
            key: names the run in later calls.
            label: names it for people.
        """
        self._running[key] = (label, time.monotonic(), {})
        self.say(f"start   {label}")

    def update(self, key: str, message: dict[str, Any]) -> None:
        """Take over a run's progress.

        Args:
            key: the run.
            message: step, max_steps, loss, images_per_second, seconds_left and phase, as far as
                known.
        """
        label, started, _ = self._running[key]
        self._running[key] = (label, started, message)
        if time.monotonic() - self._last >= PLAIN_SECONDS:
            self._last = time.monotonic()
            for running, _, known in self._running.values():
                self.say(f"        {running}: {describe_message(known)}")

    def finish(self, key: str, outcome: str) -> None:
        """Tell that a run ended.

        Args:
            key: the run.
            outcome: `done`, `failed: ...` or the like.
        """
        label, started, _ = self._running.pop(key)
        self.ended += 1
        took = format_seconds(time.monotonic() - started)
        self.say(f"{outcome.split(':')[0]:<7} {label} ({took}), {self.overall()}{_after(outcome)}")

    def give_back(self, key: str, why: str) -> None:
        """Tell that a run's worker is gone, and that it will start again.

        Args:
            key: the run.
            why: what is known of it.
        """
        label, started, _ = self._running.pop(key)
        took = format_seconds(time.monotonic() - started)
        self.say(f"lost    {label} ({took}): {why}; it is handed in again")

    def overall(self) -> str:
        """Return how many runs have ended, and the estimated rest."""
        left = self.seconds_left() if self.seconds_left else 0.0
        more = f", about {format_seconds(left)} left" if left and self.ended < self.total else ""
        return f"{self.ended} of {self.total}{more}"


class RichProgress(PlainProgress):
    """Keeps a line a running run at the bottom of the terminal; ended runs scroll by above.

    Args:
        total: number of runs to do.
        seconds_left: estimates the time until all is done.
    """

    def __init__(self, total: int, seconds_left: Callable[[], float] | None = None) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[info]}", markup=False),
            TimeElapsedColumn(),
            refresh_per_second=4,
        )
        super().__init__(total, seconds_left, self._print_above)
        self._all = self._bars.add_task("all runs", total=max(total, 1), info="")
        self._tasks: dict[str, Any] = {}
        self._refresh()

    def __enter__(self) -> RichProgress:
        """Show the display."""
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Take the display away."""
        self._bars.stop()

    def start(self, key: str, label: str) -> None:
        """Add a run's line.

        Args:
            key: names the run in later calls.
            label: names it for people.
        """
        self._running[key] = (label, time.monotonic(), {})
        self._tasks[key] = self._bars.add_task(f"  {label}", total=None, info="starting")
        self._refresh()

    def update(self, key: str, message: dict[str, Any]) -> None:
        """Move a run's bar.

        Args:
            key: the run.
            message: step, max_steps, loss, images_per_second, seconds_left and phase, as far as
                known.
        """
        self._bars.update(
            self._tasks[key],
            total=message.get("max_steps"),
            completed=message.get("step", 0),
            info=describe_message(message),
        )
        self._refresh()

    def give_back(self, key: str, why: str) -> None:
        """Remove the line of a run whose worker is gone.

        Args:
            key: the run.
            why: what is known of it.
        """
        self._bars.remove_task(self._tasks.pop(key))
        super().give_back(key, why)
        self._refresh()

    def finish(self, key: str, outcome: str) -> None:
        """Remove a run's line and print how it ended.

        Args:
            key: the run.
            outcome: `done`, `failed: ...` or the like.
        """
        self._bars.remove_task(self._tasks.pop(key))
        super().finish(key, outcome)
        self._refresh()

    def _refresh(self) -> None:
        self._bars.update(self._all, completed=self.ended, info=self.overall())

    def _print_above(self, text: str) -> None:
        self._bars.console.print(text, markup=False, highlight=False, soft_wrap=True)


def make_progress(
    total: int, seconds_left: Callable[[], float] | None = None, plain: bool | None = None
) -> PlainProgress:
    """Choose a display.

    Args:
        total: number of runs to do.
        seconds_left: estimates the time until all is done.
        plain: True for lines, False for the live display, None to look at the terminal.

    Returns:
        The display, a context manager.
    """
    if plain is None:
        plain = not sys.stdout.isatty()
    return PlainProgress(total, seconds_left) if plain else RichProgress(total, seconds_left)


def describe_message(message: dict[str, Any]) -> str:
    """Write a run's progress in one line.

    Args:
        message: step, max_steps, loss, images_per_second, flops_utilization, seconds_left and
            phase, as far as known.
    """
    words = []
    if "step" in message:
        words.append(f"step {message['step']}/{message.get('max_steps', '?')}")
    if message.get("loss") is not None:
        words.append(f"loss {message['loss']:.4f}")
    if message.get("images_per_second"):
        words.append(f"{message['images_per_second']:.0f} images/s")
    if message.get("flops_utilization"):
        words.append(f"{message['flops_utilization']:.0%} of peak")
    if message.get("seconds_left"):
        words.append(f"{format_seconds(message['seconds_left'])} left")
    if message.get("phase"):
        words.append(str(message["phase"]))
    return ", ".join(words) or "starting"


def _after(outcome: str) -> str:
    _, colon, detail = outcome.partition(":")
    return f"\n        {detail.strip()}" if colon else ""


def _print(text: str) -> None:
    print(text, flush=True)
