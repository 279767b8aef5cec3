"""Sending a run's metrics and files to MLflow from a thread of its own.

Training only puts into a bounded queue: a store that is away, hangs or is locked costs it nothing.
The queue is a comfort: what it loses stands in the run folder, and is sent from there.
"""

from __future__ import annotations

import atexit
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from qk_lightning.config.run_folder import RunFolder
from qk_lightning.tracking.mlflow_missed import forget_missed, note_missed
from qk_lightning.tracking.mlflow_store import (
    MAX_METRICS,
    outages,
    reason,
    store_folder,
    store_uri,
)

if TYPE_CHECKING:
    from mlflow.entities import Metric

    from qk_lightning.tracking.mlflow_session import Session

# A call costs 15 to 24 ms however much it carries, and takes up to 1,000 metrics.
FLUSH_SECONDS = 5.0
PAUSES = (5.0, 10.0, 20.0, 40.0, 60.0)  # between the tries of an outage
MAX_WAITING = 50_000  # points: some 10 MB
MAX_PICTURES = 100
# Without a word from the store: at the end of a run, and after Ctrl-C. A file hangs only where it
# is locked, and the first run makes it, which takes seconds.
LAST_SECONDS = {"server": 5.0, "file": 30.0}
STOPPED_SECONDS = {"server": 2.0, "file": 10.0}
THREAD = "qk-mlflow"
log = logging.getLogger("qk_lightning")


class Sender:
    """Sends what it is given, in order, whenever the store answers.

    Args:
        run: the run's folder.
        connect: finds or makes the MLflow run, and tells of each call that went well; called in
            the thread until it succeeds.
    """

    def __init__(self, run: RunFolder, connect: Callable[[Callable[[], None]], Session]) -> None:
        self.run = run
        self.session: Session | None = None
        self._connect = connect
        self._changed = threading.Condition()
        self._points: deque[Metric] = deque()
        self._pictures: deque[Path] = deque()
        self._status = ""
        self._with_files = False
        self._dropped = 0
        self._newest = 0
        self._asked = True  # the first point makes the MLflow run
        self._closed = self._ended = False
        self._tries = self._failures = 0  # failures since the store last answered
        self._away_since = self._heard = 0.0
        self._thread: threading.Thread | None = None

    def add(self, points: Iterable[Metric]) -> None:
        """Queue points; past a limit the oldest are left to the run folder.

        Args:
            points: in order of steps.
        """
        with self._changed:
            self._points.extend(points)
            self._newest = max(self._newest, self._points[-1].step if self._points else 0)
            while len(self._points) > MAX_WAITING:
                self._points.popleft()
                self._dropped += 1
        self._start()

    def show(self, picture: Path) -> None:
        """Queue a picture; during an outage they are left to the end of the run.

        Args:
            picture: a file in the run's `samples/`.
        """
        with self._changed:
            if len(self._pictures) < MAX_PICTURES:
                self._pictures.append(picture)
        self._start()

    def end(self, status: str, with_files: bool = False, is_stopped: bool = False) -> bool:
        """Try once more to send what is left, close the MLflow run, and stop.

        Args:
            status: MLflow's word for how the run ended.
            with_files: send the run's files too.
            is_stopped: the user stopped the run, and waits.

        Returns:
            Whether MLflow shows all of the run now. What it lacks is marked in the run folder.
        """
        if self._closed:
            return self._ended
        seconds = STOPPED_SECONDS if is_stopped else LAST_SECONDS
        with self._changed:
            self._status, self._with_files = status, with_files
        self._start()
        try:
            self._wait(seconds["server" if store_folder() is None else "file"])
        finally:
            with self._changed:
                self._closed = True
                self._changed.notify_all()
            atexit.unregister(self._end_at_exit)
            if not self._ended:
                self._note("the run ended before all was sent")
                log.warning("MLflow lacks some of %s: qk track sync %s", *[self.run.name] * 2)
        return self._ended

    def _wait(self, seconds: float) -> None:
        """Wait until all is sent, a new try has failed, or the store says nothing for a while."""
        with self._changed:
            self._asked = True
            self._heard = time.monotonic()
            tries = self._tries
            self._changed.notify_all()
            while not self._ended and time.monotonic() - self._heard < seconds:
                is_alive = self._thread is not None and self._thread.is_alive()
                if not is_alive or (self._failures and self._tries > tries):
                    return
                self._changed.wait(0.1)

    def _start(self) -> None:
        if self._thread is None and not self._closed:
            self._thread = threading.Thread(target=self._work, name=THREAD, daemon=True)
            self._thread.start()
            atexit.register(self._end_at_exit)

    def _end_at_exit(self) -> None:
        """Close what nobody closed, as after an error while the weights are scored."""
        failed = self.run.status.get("state") == "failed"
        self.end("FAILED" if failed else "KILLED", is_stopped=True)

    def _work(self) -> None:
        """Send until the end; this is the thread."""
        while not self._closed and not self._ended:
            with self._changed:
                pause = PAUSES[min(self._failures, len(PAUSES)) - 1]
                ready = self._asked or self._closed
                if not ready:
                    self._changed.wait(pause if self._failures else FLUSH_SECONDS)
                self._asked = False
            try:
                self._send()
            except outages() as error:
                self._fail(error)
            except Exception as error:
                self._note(reason(error))
                log.exception("%s is no longer shown in MLflow", self.run.name)
                return

    def _send(self) -> None:
        """Send all that waits.

        Raises:
            Exception: one of `outages()`; what was not sent waits on.
        """
        with self._changed:
            if self._closed:
                return
            status = self._status  # once it is there, nothing is queued any more
        if self.session is None:
            session = self._connect(self._hear)
            with self._changed:
                first = self._points[0].step if self._points else sys.maxsize
            self._fill(session.missing(first))
            self.session = session
        if self._dropped:
            self._fill_dropped(self.session)
        while batch := self._take():
            try:
                self.session.send_points(batch)
            except BaseException:
                self._fill(batch)
                raise
            self._hear()
        while self._pictures and not self._closed:
            self.session.send_picture(self._pictures[0])
            self._pictures.popleft()
            self._hear()
        if status and not self._closed:
            self.session.close(status, self._with_files, self._hear)
        self._answer(bool(status))

    def _take(self) -> list[Metric]:
        with self._changed:
            if self._closed:
                return []
            return [self._points.popleft() for _ in range(min(MAX_METRICS, len(self._points)))]

    def _fill(self, points: list[Metric]) -> None:
        """Put points before those that wait."""
        with self._changed:
            self._points.extendleft(reversed(points))

    def _fill_dropped(self, session: Session) -> None:
        with self._changed:
            waiting = {(point.key, point.step) for point in self._points}
            newest, self._dropped = self._newest, 0
        try:
            self._fill(session.missing(newest, waiting))
        except BaseException:
            self._dropped += 1
            raise

    def _hear(self) -> None:
        with self._changed:
            self._heard = time.monotonic()

    def _answer(self, is_end: bool) -> None:
        """Note that the store has all there is by now."""
        with self._changed:
            if self._closed:
                return
            forget_missed(self.run)
            self._tries += 1
            failures, self._failures = self._failures, 0
            self._ended = is_end
            self._changed.notify_all()
        if failures:
            seconds = time.monotonic() - self._away_since
            text = "MLflow answers again after %.0f s, and has all of %s so far"
            log.warning(text, seconds, self.run.name)

    def _fail(self, error: Exception) -> None:
        """Note that the store is away; say so once an outage."""
        if self._closed:
            return
        if not self._failures:
            self._away_since = time.monotonic()
            self._note(reason(error))
            text = "MLflow (%s) does not answer; %s trains on, metrics.csv has its metrics: %s"
            log.warning(text, store_uri(), self.run.name, reason(error))
        with self._changed:
            self._tries += 1
            self._failures += 1
            self._changed.notify_all()

    def _note(self, why: str) -> None:
        try:
            note_missed(self.run, why)
        except OSError as error:  # a full disk; `qk track sync all` finds what is missing too
            log.warning("%s cannot be marked as not shown in full: %s", self.run.name, error)
