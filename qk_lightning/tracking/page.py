"""MLflow's own page over the store: started, waited for, and ended with all its processes."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from qk_lightning.config.errors import ConfigError, Problem
from qk_lightning.config.paths import runs_root
from qk_lightning.tracking.mlflow_store import check_store, store_file, store_uri

FIRST_PORT = 5000
NUM_PORTS = 100
START_SECONDS = 180.0
GRACE_SECONDS = 10.0
ANY_HOST = ("0.0.0.0", "::")  # noqa: S104 - only looked for, never a default
LOG_LINES = 15


class Page:
    """MLflow's server in processes of its own; a context manager.

    Args:
        host: address to listen at.
        port: port to listen at.
        log: file for what the server prints.
    """

    def __init__(self, host: str, port: int, log: Path) -> None:
        self.host = host
        self.port = port
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """What to type into a browser on this machine."""
        host = "127.0.0.1" if self.host in ANY_HOST else self.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def command(self) -> list[str]:
        """The server's command line."""
        command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store_uri()]
        return [*command, "--host", self.host, "--port", str(self.port), "--workers", "1"]

    def __enter__(self) -> Page:
        """Start the server."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        off = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with self.log.open("wb") as log:
            # A session of its own: Ctrl-C reaches this process alone, which then ends all of it.
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=self.log.parent,  # where MLflow puts what it makes unasked
                env={**os.environ, **off},
            )
        return self

    def __exit__(self, *error: object) -> None:
        """End the server and everything that it started."""
        assert self._process is not None
        _signal_group(self._process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE_SECONDS)
        deadline = time.monotonic() + GRACE_SECONDS / 2
        while _signal_group(self._process.pid, 0) and time.monotonic() < deadline:
            time.sleep(0.1)
        _signal_group(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def wait_until_ready(self) -> None:
        """Wait until the server answers.

        Raises:
            RuntimeError: it ended, or has not answered in time.
        """
        assert self._process is not None
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise RuntimeError(f"MLflow's server has ended at once:\n{self.last_words()}")
            if self._answers():
                return
            time.sleep(0.25)
        raise RuntimeError(f"MLflow's server does not answer:\n{self.last_words()}")

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.address}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:  # urllib's own errors too
            return False

    def wait(self) -> int:
        """Wait until the server ends, which it does not by itself.

        Returns:
            Its exit status.
        """
        assert self._process is not None
        return self._process.wait()

    def last_words(self) -> str:
        """Return the end of what the server printed."""
        lines = self.log.read_text(errors="replace").splitlines()[-LOG_LINES:]
        return "\n".join([*lines, f"(all of it: {self.log})"])


def _signal_group(group: int, number: int) -> bool:
    """Signal a group of processes; False where none is left."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True


def remote_address() -> str | None:
    """Return the address of a store that is a server with a page of its own, else None."""
    uri = store_uri()
    return uri if uri.startswith(("http://", "https://")) else None


def open_page(host: str = "127.0.0.1", port: int | None = None) -> Page:
    """Check that there is something to show and a port for it.

    Args:
        host: address to listen at; only this machine reaches the default.
        port: port to listen at; None for the first free one from 5000.

    Returns:
        The page, to be entered.

    Raises:
        ConfigError: MLflow is not installed, nothing is tracked yet, or the port is taken.
    """
    check_store()
    file = store_file()
    if file is not None and not file.is_file():
        fix = "train something: qk fit laptop/stage1; where runs/ has runs: qk track rebuild"
        raise ConfigError(Problem("MLflow store", str(file), "a store; nothing tracked yet", fix))
    return Page(host, free_port(host, port), runs_root() / "mlflow" / "ui.log")


def free_port(host: str, wanted: int | None, first: int = FIRST_PORT) -> int:
    """Choose a port to listen at.

    Args:
        host: address to listen at.
        wanted: the port, None for the first free one.
        first: where to begin to look.

    Returns:
        The port.

    Raises:
        ConfigError: it is none, or taken.
    """
    if wanted is not None:
        if not 1 <= wanted <= 65535:
            raise ConfigError(Problem("--port", wanted, "1 to 65535", "choose another"))
        _try(host, wanted)
        return wanted
    for port in range(first, first + NUM_PORTS):
        with contextlib.suppress(ConfigError):
            _try(host, port)
            return port
    _try(host, first)  # says why
    raise AssertionError("a port became free")


def _try(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((host, port))
        except OSError as error:
            if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
                fix = "127.0.0.1, or 0.0.0.0 for all of its addresses"
                problem = Problem("--host", host, "an address of this machine", fix)
                raise ConfigError(problem) from error
            reason = error.strerror or str(error)
            fix = "leave --port out to take the next free one, or choose another --host or --port"
            raise ConfigError(Problem("--port", port, f"a free port ({reason})", fix)) from error
