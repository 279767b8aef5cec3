"""Noticing that another process of the run is gone where no collective would tell.

Within a step gloo tells at once that a rank is gone. Here are the other moments: the others wait
for the first rank, which scores for hours; and the launcher is gone that would end them.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

from qk_lightning.config.stop_signals import TRY_AGAIN

ASK_SECONDS = 0.5
SILENCE_SECONDS = 40.0
KEEP_SECONDS = 30.0


class RankLost(RuntimeError):  # noqa: N818 - it names a state, and reads so where it is caught
    """Another process of the run is gone, or does not answer."""


def wait_for_key(store: Any, key: str) -> None:
    """Wait, for as long as the store answers, until a key is set.

    The store is served by a thread of the first rank that needs no Python, or by torchrun's
    agent, which ends all ranks when one of them has died.

    Args:
        store: of `torch.distributed`; nothing else uses it meanwhile.
        key: set by the first rank.

    Raises:
        RankLost: the connection broke, or nothing was answered for 40 seconds.
    """
    asker = _Asker(store, key)
    asker.start()
    silence = 0.0  # as this process lived it: all ranks may have been suspended together
    while not asker.is_set.wait(ASK_SECONDS):  # Python's wait: a signal is answered
        silence = 0.0 if asker.answered else silence + ASK_SECONDS
        asker.answered = False
        if asker.error is not None:
            raise RankLost(f"the first rank is gone ({asker.error})") from asker.error
        if silence >= SILENCE_SECONDS:
            raise RankLost(f"the first rank has not answered for {SILENCE_SECONDS:.0f} seconds")


class _Asker(threading.Thread):
    """Asks whether a key is set; the store of a machine that is gone never answers."""

    def __init__(self, store: Any, key: str) -> None:
        super().__init__(name=f"wait-for-{key}", daemon=True)
        self.store = store
        self.key = key
        self.is_set = threading.Event()
        self.answered = True
        self.error: Exception | None = None

    def run(self) -> None:
        """Ask until it is set, or until the connection breaks."""
        try:
            while not self.store.check([self.key]):
                self.answered = True
                time.sleep(ASK_SECONDS)
        except RuntimeError as error:
            self.error = error
            return
        self.is_set.set()


def end_with_launcher() -> None:
    """Stop this process when the one that started it is gone: keep the step, or end without."""
    parent = os.getppid()
    threading.Thread(target=_watch, args=(parent,), name="watch-launcher", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(ASK_SECONDS)
    os.write(2, b"\nthe launcher is gone: stopping\n")
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(KEEP_SECONDS)
    os._exit(TRY_AGAIN)
