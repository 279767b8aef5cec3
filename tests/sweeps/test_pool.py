"""The pool of processes: what happens when the server that makes them is gone."""

from __future__ import annotations

import os
import signal
import threading
from multiprocessing import forkserver

import fake_stages

from qk_lightning.sweeps.pool import Pool
from qk_lightning.sweeps.worker import Job


def _done(pool, folder, key):
    pool.submit(Job(key, "os:getpid", (), folder))
    ended = []
    while pool.running:
        ended += [event for event in pool.events() if event.kind != "progress"]
    return [(event.key, event.kind) for event in ended]


def test_a_killed_fork_server_is_started_anew(project):
    folder = project / "runs"
    with Pool(1, 1, fake_stages.PRELOAD) as pool:
        assert _done(pool, folder, "first") == [("first", "done")]
        before = forkserver._forkserver._forkserver_pid
        os.kill(before, signal.SIGSTOP)  # asked for a process, it is killed before it answers
        threading.Timer(0.5, os.kill, (before, signal.SIGKILL)).start()
        assert _done(pool, folder, "second") == [("second", "done")]
        assert forkserver._forkserver._forkserver_pid not in (None, before)
