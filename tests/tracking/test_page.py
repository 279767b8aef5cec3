"""MLflow's page: the right port, an address only once it answers, and nothing left running."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from qk_lightning.cli.main import main
from qk_lightning.config.errors import ConfigError
from qk_lightning.tracking.page import FIRST_PORT, Page, open_page

# Answers after a moment, and starts a process of its own that ignores Ctrl-C, as servers do.
SERVER = """
import http.server, subprocess, sys, time
child = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(600)"
worker = subprocess.Popen([sys.executable, "-c", child])
print("worker", worker.pid, flush=True)
time.sleep(0.5)

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()

http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


class SmallPage(Page):
    """A page of a server that starts in a moment."""

    script = SERVER

    @property
    def command(self):
        return [sys.executable, "-c", self.script, str(self.port)]


class BrokenPage(SmallPage):
    script = "raise SystemExit('the database has another schema')"


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_it_answers_when_it_says_so_and_ends_with_its_children(root, port):
    page = SmallPage("127.0.0.1", port, root / "runs/mlflow/ui.log")
    with page:
        page.wait_until_ready()
        assert urllib.request.urlopen(f"{page.address}/health").status == 200
        worker = int(page.log.read_text().split()[1])
        assert is_alive(worker)
    assert not is_alive(worker)
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", port))  # the port is free again


def test_a_server_that_ends_at_once_says_why(root, port):
    page = BrokenPage("127.0.0.1", port, root / "runs/mlflow/ui.log")
    with page, pytest.raises(RuntimeError, match="another schema"):
        page.wait_until_ready()


def test_a_taken_port_is_an_error_if_asked_for_and_else_passed_over(store):
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match="take the next free one"):
            open_page(port=taken.getsockname()[1])
    with socket.socket() as first:
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            first.bind(("127.0.0.1", FIRST_PORT))
            first.listen()
        except OSError:
            pass  # somebody has it already
        assert open_page().port > FIRST_PORT


def test_mistakes_are_said(root, capsys):
    assert main(["ui"]) == 2
    assert "nothing tracked yet" in capsys.readouterr().err
    assert not (root / "runs/mlflow").exists()


def test_wrong_hosts_and_ports_are_said(store, capsys):
    for words, expected in (
        (["--host", "203.0.113.1"], "an address of this machine"),
        (["--port", "0"], "1 to 65535"),
    ):
        assert main(["ui", *words]) == 2
        assert expected in capsys.readouterr().err


def test_a_remote_store_has_its_own_page(root, capsys, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking.example:5000")
    assert main(["ui"]) == 0
    assert "http://tracking.example:5000" in capsys.readouterr().out


@pytest.mark.slow
def test_mlflows_own_server_shows_the_store(store, port):
    command = [sys.executable, "-m", "qk_lightning", "ui", "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    lines = [process.stdout.readline() for _ in range(3)]
    assert lines[2].startswith(f"http://127.0.0.1:{port}"), lines
    url = f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/get-by-name"
    answer = urllib.request.urlopen(f"{url}?experiment_name=default_experiment")
    assert answer.status == 200
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and _listens(port):
        time.sleep(0.2)
    assert not _listens(port)
    assert not os.path.exists(store / "mlruns")


def _listens(port):
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0
