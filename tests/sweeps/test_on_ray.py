"""Sweeps on a real Ray cluster of two nodes on this machine (extra `ray`)."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import fake_stages
import pytest

from qk_lightning.config.errors import ConfigError
from qk_lightning.sweeps.engine import RunOptions

ray = pytest.importorskip("ray")
cluster_utils = pytest.importorskip("ray.cluster_utils")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
HERE = Path(__file__).parent


@pytest.fixture
def nodes(project, monkeypatch):
    """A cluster of two nodes with two cores each; return it, the driver's options and its nodes."""
    path = os.pathsep.join([str(HERE), str(HERE.parents[1])])
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.setenv("QK_ROOT", str(project))
    cluster = cluster_utils.Cluster()
    # The head has no cores, so that whichever node is killed, the cluster lives.
    cluster.add_node(num_cpus=0, object_store_memory=80_000_000)
    pair = [cluster.add_node(num_cpus=2, object_store_memory=80_000_000) for _ in range(2)]
    cluster.wait_for_nodes()
    executor = {"name": "ray", "address": cluster.address}
    yield cluster, RunOptions(executor=executor), pair
    ray.shutdown()
    cluster.shutdown()


def test_a_sweep_runs_on_two_nodes(nodes, sweep_of, run, monkeypatch):
    _, options, _ = nodes
    monkeypatch.setenv("QK_FAKE_STAGE", "align 4 1=raise;align 16 0=crash")
    result, printed = run(sweep_of(widths=(1, 4, 16), seeds=(0, 1)), options=options)
    assert f"pool: ray address={options.executor['address']}, as many as ray takes" in printed
    assert "failed: align width=4 seed 1: ValueError: the latents are not finite" in printed
    assert "failed: align width=16 seed 0: its process was ended by SIGSEGV" in printed
    assert result.exit_status == 1
    calls = fake_stages.calls()
    assert len(calls) == len(set(calls)) == 14 - 2
    monkeypatch.setenv("QK_FAKE_STAGE", "")
    retried = RunOptions(retry=True, executor=options.executor)
    result, _ = run(sweep_of(widths=(1, 4, 16), seeds=(0, 1)), options=retried)
    assert result.exit_status == 0
    assert sorted(fake_stages.calls()[12:]) == [
        "align 16 0", "align 4 1", "refine 16 0", "refine 4 1"
    ]  # fmt: skip


def test_a_node_that_is_killed_gives_its_members_back(nodes, sweep_of, run, project, monkeypatch):
    cluster, options, pair = nodes
    monkeypatch.setenv("QK_FAKE_STAGE", "align *=sleep 8")
    killed = threading.Event()

    def kill() -> None:
        while not [call for call in fake_stages.calls() if call.startswith("align")]:
            time.sleep(0.05)
        time.sleep(2)  # four wait to be full: two on each node
        cluster.remove_node(pair[1], allow_graceful=False)
        killed.set()

    threading.Thread(target=kill, daemon=True).start()
    sweep = sweep_of(widths=(1, 4), seeds=(0, 1))
    result, _ = run(sweep, options=options, plain=True)
    assert killed.is_set()
    assert result.exit_status == 0
    assert all(run.done for run in result.plan.graph.values())
    done = _finished(project)
    assert len(done) == len(set(done)) == 10
    twice = len(fake_stages.calls()) - len(set(fake_stages.calls()))
    assert 1 <= twice <= 4  # what ran on the dead node began again, and nothing else


def _finished(project):
    """What ended its training, a line each: a killed one leaves none."""
    return (project / "runs/finished.txt").read_text().split("\n")[:-1]


def test_ctrl_c_ends_the_members_of_a_cluster(nodes, sweep_of, run, project, monkeypatch):
    _, options, _ = nodes
    monkeypatch.setenv("QK_FAKE_STAGE", "align 4 0=hang")
    from qk_lightning.sweeps.on_ray import RayPool

    events = RayPool.events

    def interrupted(self, timeout=1.0):
        if (project / "runs/hanging.pid").is_file():
            raise KeyboardInterrupt
        yield from events(self, 0.5)

    monkeypatch.setattr(RayPool, "events", interrupted)
    result, printed = run(sweep_of(seeds=(0,)), options=options)
    assert result.exit_status == 130
    pid = int((project / "runs/hanging.pid").read_text())
    status = Path(f"/proc/{pid}/status")
    assert not status.is_file() or "State:\tZ" in status.read_text()
    assert not list((project / "runs/sweeps").rglob(".stop-*"))
    assert result.outcome.failed == {}


def test_a_run_that_no_node_can_hold_is_refused(nodes, sweep_of, run):
    _, options, _ = nodes
    with pytest.raises(ConfigError, match="what a machine of the Ray cluster has"):
        run(sweep_of(seeds=(0,), cores=3), options=options)
    assert fake_stages.calls() == []
