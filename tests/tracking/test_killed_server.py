"""A real `mlflow server` that is stopped and killed while runs train: they neither fail nor wait.

All runs here have the same size; `test_speed` prints the seconds of a step side by side.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from away_server import RealServer, hanging, wait_for

from qk_lightning.cli.main import main
from qk_lightning.config.chain import plan_chain
from qk_lightning.config.find_runs import list_runs
from qk_lightning.config.run_folder import RunFolder
from qk_lightning.sweeps.reader import load_sweep
from qk_lightning.sweeps.run import run_sweep
from qk_lightning.sweeps.stage import run_stage
from qk_lightning.tracking import mlflow_sender
from qk_lightning.tracking.mlflow_missed import MISSED
from qk_lightning.tracking.mlflow_store import RECORD, make_client

pytestmark = [
    pytest.mark.slow,
    pytest.mark.shared_root,
    pytest.mark.usefixtures("shared_presets"),
    pytest.mark.filterwarnings("ignore"),
]
STEPS, AWAY_AT = 120, 40
QUICK = [
    "all.trainer.checkpoint_every=100",
    "all.validation.num_images=0",
    "all.validation.num_samples=2",
    "all.tracking.name=mlflow",
]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server that runs; whoever kills it starts it again."""
    real = RealServer(tmp_path_factory.mktemp("server"))
    real.start()
    yield real
    real.kill()


@pytest.fixture(autouse=True)
def root(module_root, server, monkeypatch):
    """One project for all, in place of that of the other tests here."""
    monkeypatch.setenv("QK_ROOT", str(module_root))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3")
    monkeypatch.setattr(mlflow_sender, "PAUSES", (0.5, 1.0))
    return module_root


class Watch:
    """Does something at a step of a run, and knows how long steps took before and after."""

    def __init__(self, then=lambda: None, at=AWAY_AT):
        self.then, self.at, self.seen = then, at, []

    def __call__(self, message):
        if "loss" not in message:
            return
        before = self.seen[-1][0] if self.seen else 0
        self.seen.append((message["step"], time.perf_counter()))
        if before < self.at <= message["step"]:
            self.then()
            self.seen[-1] = (message["step"], time.perf_counter())

    def seconds_per_step(self, before=False):
        """Up to the event, or from it to the last report."""
        seen = [pair for pair in self.seen if pair[0] <= self.at or not before]
        seen = seen if before else [pair for pair in seen if pair[0] >= self.at]
        (first, began), (last, ended) = seen[0], seen[-1]
        return (ended - began) / (last - first)


def train(seed, watch, *overrides):
    """Train a run of its own."""
    plan = plan_chain("tiny/stage1", [*QUICK, f"max_steps={STEPS}", f"seed={seed}", *overrides])[0]
    run = plan.write()
    with run.lock():
        run_stage(run.path, watch)
    return run


def assert_shown(run):
    """See that MLflow has every row of metrics.csv, and every step once."""
    client = make_client()
    run_id = run.read_json(RECORD)["run_id"]
    rows = [row for row in run.metrics() if row["metric"] == "train/loss"]
    points = client.get_metric_history(run_id, "train/loss")
    assert sorted(point.step for point in points) == [row["step"] for row in rows]
    assert {(p.step, p.value) for p in points} == {(row["step"], row["value"]) for row in rows}
    found = client.search_runs([client.get_run(run_id).info.experiment_id])
    assert sum(other.info.run_name == run.name for other in found) == 1
    assert not (run.path / MISSED).exists()


def test_speed_of_a_step_with_the_server_there_stopped_and_dead(server, caplog, capsys):
    watches = {name: Watch() for name in ("none", "alive")}
    watches["stopped"] = Watch(lambda: server.signal(signal.SIGSTOP))
    watches["dead"] = Watch(server.kill)
    runs, ends = {}, {}
    train(99, None, "tracking.name=none", "max_steps=20")  # warms the caches
    for seed, (name, watch) in enumerate(watches.items()):
        caplog.clear()
        runs[name] = train(seed, watch, *(["tracking.name=none"] if name == "none" else []))
        ends[name] = time.perf_counter() - watch.seen[-1][1]
        away = name in ("stopped", "dead")
        assert caplog.text.count("does not answer") == int(away)
        assert (runs[name].path / MISSED).exists() == away
        if name == "stopped":
            server.signal(signal.SIGCONT)
    server.start()
    with capsys.disabled():
        for name, watch in watches.items():
            early, late = watch.seconds_per_step(before=True), watch.seconds_per_step()
            steps = f"{1000 * early:6.1f} ms a step, then {1000 * late:6.1f}"
            rest = f"ratio {late / early:.2f}; last step to the end {ends[name]:.1f} s"
            print(f"\n{name:>8}: {steps}, {rest}", end="")
    # What a client's own retries take is minutes; the ratios above are for reading.
    assert max(watch.seconds_per_step() for watch in watches.values()) < 5
    assert_shown(runs["alive"])
    assert main(["track", "sync"]) == 0
    for name in ("stopped", "dead"):
        assert runs[name].is_done
        assert_shown(runs[name])
    capsys.readouterr()
    assert main(["track", "sync"]) == 0
    assert "keep 3" in capsys.readouterr().out


def test_a_server_that_comes_back_within_the_run_gets_all(server, caplog):
    def pause():
        server.signal(signal.SIGSTOP)
        threading.Timer(8.0, server.signal, [signal.SIGCONT]).start()

    run = train(10, Watch(pause), "max_steps=400")
    assert caplog.text.count("does not answer") == 1
    assert caplog.text.count("answers again") == 1
    assert_shown(run)


def test_a_sweep_of_four_goes_on_when_the_server_dies(server, root):
    text = "preset: tiny/stage1\naxes: {optimizer.lr: [0.001, 0.002, 0.003, 0.004]}\nseeds: [20]\n"
    text += f"slots: 4\noverrides: [{', '.join([*QUICK, 'all.max_steps=150'])}]\n"
    (root / "four.yaml").write_text(text)
    before = {run.name for run in list_runs()}

    def kill_when_all_train():
        def shown():
            runs = [run for run in list_runs() if run.name not in before]
            return [run for run in runs if run.metrics() and run.read_json(RECORD)]

        wait_for(lambda: len(shown()) == 4, 240)
        server.kill()

    killer = threading.Thread(target=kill_when_all_train, daemon=True)
    killer.start()
    said = []
    result = run_sweep(load_sweep(root / "four.yaml"), plain=True, write=said.append)
    killer.join(1)
    assert not killer.is_alive()
    runs = [run for run in list_runs() if run.name not in before]
    assert result.exit_status == 0
    assert [run.is_done for run in runs] == [True] * 4
    assert "not in MLflow" in "\n".join(said)
    assert all((run.path / MISSED).exists() for run in runs)
    server.start()
    assert main(["track", "sync"]) == 0
    for run in runs:
        assert_shown(run)


def test_ctrl_c_ends_a_process_whose_server_hangs(root):
    words = ["fit", "tiny/stage1", *QUICK, "max_steps=5000", "seed=30"]
    with hanging() as address:
        process = subprocess.Popen(
            [sys.executable, "-m", "qk_lightning", *words],
            env={**os.environ, "MLFLOW_TRACKING_URI": address}, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            found = lambda: [run for run in list_runs() if "seed=30" in run.overrides]  # noqa: E731
            wait_for(lambda: any(len(run.metrics()) > 50 for run in found()), 240)
            process.send_signal(signal.SIGINT)
            began = time.monotonic()
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()
        seconds = time.monotonic() - began
    (run,) = found()
    print(f"Ctrl-C to the end of the process: {seconds:.1f} s")
    assert seconds < 15
    assert said.count(f"qk track sync {run.name}") == 1
    assert main(["track", "sync", run.name]) == 0
    assert_shown(RunFolder(run.path))


@pytest.mark.distributed
def test_two_ranks_killed_and_one_that_goes_on_are_one_mlflow_run(root, capsys):
    words = ["fit", "tiny/stage1", *QUICK[1:], "max_steps=60", "seed=40"]
    words += ["all.trainer.checkpoint_every=20"]
    two = [sys.executable, "-m", "qk_lightning", *words, "trainer.devices=2"]
    process = subprocess.Popen(two, stdout=subprocess.DEVNULL)
    try:
        found = lambda: [run for run in list_runs() if "seed=40" in run.overrides]  # noqa: E731
        wait_for(lambda: any(run.last_checkpoint_step and run.read_json(RECORD)
                             and len(run.metrics()) > 25 for run in found()), 300)  # fmt: skip
    finally:
        process.kill()  # its ranks end with it
        process.wait()
    (run,) = found()
    wait_for(lambda: not run.lock().is_held)
    begun = run.read_json(RECORD)["run_id"]
    step = run.last_checkpoint_step
    assert main(words) == 0
    assert run.is_done
    client = make_client()
    assert run.read_json(RECORD)["run_id"] == begun
    shown = client.get_run(begun)
    assert shown.data.tags["qk.changed.trainer.devices"] == f"2 -> 1 at step {step}"
    assert shown.data.tags["qk.changed.num_ranks"] == f"2 -> 1 at step {step}"
    assert shown.data.params["trainer.devices"] == "2"
    names = [found.info.run_name for found in client.search_runs([shown.info.experiment_id])]
    assert names.count(run.name) == 1
    newest = {}
    for point in sorted(client.get_metric_history(begun, "train/loss"), key=lambda p: p.timestamp):
        newest[point.step] = point.value
    rows = [row for row in run.metrics() if row["metric"] == "train/loss"]
    assert newest == {row["step"]: row["value"] for row in rows}
    assert len(rows) == 60
    capsys.readouterr()
    assert main(["track", "sync", run.name]) == 0
    assert "keep 1" in capsys.readouterr().out
    assert main(["runs", "show", run.name]) == 0
    assert f"trainer.devices: 2 -> 1 from step {step} on" in capsys.readouterr().out
