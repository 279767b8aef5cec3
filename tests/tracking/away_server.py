"""Servers that are away, in the ways that servers are; and MLflow's own, to be killed."""

from __future__ import annotations

import contextlib
import http.server
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

HOST = "127.0.0.1"


def wait_for(condition, seconds=30.0):
    """Wait until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextlib.contextmanager
def refusing():
    """Give an address where nobody listens."""
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        yield f"http://{HOST}:{taken.getsockname()[1]}"


@contextlib.contextmanager
def hanging():
    """Give the address of a server that takes what it is sent and never answers."""
    with socket.socket() as listening:
        listening.bind((HOST, 0))
        listening.listen(64)
        yield f"http://{HOST}:{listening.getsockname()[1]}"


class _Broken(http.server.BaseHTTPRequestHandler):
    def do_GET(self):  # noqa: N802 - the library's name
        self.send_error(500, "the database is gone")

    do_POST = do_PUT = do_PATCH = do_GET  # noqa: N815

    def log_message(self, *arguments):
        pass


@contextlib.contextmanager
def broken():
    """Give the address of a server that answers 500."""
    with http.server.ThreadingHTTPServer((HOST, 0), _Broken) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://{HOST}:{server.server_port}"
        server.shutdown()
        thread.join()


class RealServer:
    """`mlflow server` with a store of its own; what it serves outlives it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind((HOST, 0))
            self.address = f"http://{HOST}:{free.getsockname()[1]}"
        self.process = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.folder.mkdir(exist_ok=True)
        port = self.address.rpartition(":")[2]
        words = ["server", "--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db"]
        words += ["--host", HOST, "--port", port, "--workers", "1"]
        off = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        variables = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
        with (self.folder / "log.txt").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", *words],
                cwd=self.folder, stdout=log, stderr=log, start_new_session=True,
                env={**variables, **off},
            )  # fmt: skip
        wait_for(self._answers, 180)

    def _answers(self) -> bool:
        assert self.process.poll() is None, (self.folder / "log.txt").read_text()
        try:
            with urllib.request.urlopen(f"{self.address}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to it and all that it started."""
        os.killpg(self.process.pid, number)

    def kill(self) -> None:
        """Kill it, however it is."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.signal(signal.SIGKILL)
            self.process.wait()
            self.process = None
