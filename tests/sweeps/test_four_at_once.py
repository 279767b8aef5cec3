"""Four members at once: MLflow loses nothing, and what side by side saves is measured."""

from __future__ import annotations

import time

import pytest

from qk_lightning.config.find_runs import list_runs
from qk_lightning.sweeps.run import run_sweep
from qk_lightning.tracking.mlflow_missed import count_missed
from qk_lightning.tracking.mlflow_store import make_client, metric_key, storable

SWEEP = """
preset: tiny/stage1
overrides: [trainer.max_steps=12, tracking.name=mlflow]
axes: {optimizer.lr: [0.001, 0.002, 0.003, 0.004]}
seeds: [0]
slots: SLOTS
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_four_members_at_once_lose_no_metric(tiny_presets, root, monkeypatch, tmp_path):
    seconds = {}
    for slots in (4, 1):
        place = tmp_path / f"slots{slots}"
        place.mkdir()
        (place / "experiments").symlink_to(root / "experiments")
        monkeypatch.setenv("QK_ROOT", str(place))
        (place / "rates.yaml").write_text(SWEEP.replace("SLOTS", str(slots)))
        said: list[str] = []
        began = time.perf_counter()
        result = run_sweep(place / "rates.yaml", plain=True, write=said.append)
        seconds[slots] = time.perf_counter() - began
        assert (result.exit_status, result.tracking_error) == (0, ""), said
        _check_mlflow(4)
    print(f"four at once {seconds[4]:.0f} s, one after the other {seconds[1]:.0f} s: "
          f"{seconds[4] / seconds[1]:.2f} of its time")  # fmt: skip


def _check_mlflow(count):
    """See that MLflow has every value that metrics.csv has, and no other, of every run."""
    runs, client = list_runs(), make_client()
    assert (len(runs), count_missed(runs)) == (count, 0)
    for run in runs:
        record = run.read_json("mlflow.json")
        assert client.get_run(record["run_id"]).info.status == "FINISHED"
        ours: dict[str, list[tuple[int, float]]] = {}
        for row in run.metrics():
            point = (row["step"], storable(row["value"]))
            ours.setdefault(metric_key(row["metric"]), []).append(point)
        for key, points in ours.items():
            history = client.get_metric_history(record["run_id"], key)
            assert sorted((p.step, p.value) for p in history) == sorted(points), (run.name, key)
        assert len(ours["train/loss"]) == 12
        assert "error" not in (run.path / "log.txt").read_text().lower()
