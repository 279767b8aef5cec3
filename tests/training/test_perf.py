"""What a run's speed is made of, and that measuring it changes nothing."""

from __future__ import annotations

import pytest
import torch
from test_run_stage import train, weights_of

from qk_lightning.config.chain import plan_chain

pytestmark = [pytest.mark.shared_root, pytest.mark.usefixtures("shared_presets")]


def test_measuring_changes_no_weight():
    runs = []
    for perf in ("true", "false"):
        run = train(plan_chain("tiny/stage1", [f"trainer.perf={perf}", "max_steps=4"]))[0]
        rows = [row for row in run.metrics() if not row["metric"].startswith("perf/")]
        runs.append((run.identity, weights_of(run), rows, run.last_metrics(), run.status))
        run.remove()
    (identity, weights, rows, metrics, status), (same, others, other_rows, plain, _) = runs
    print(metrics, status)
    assert identity == same
    assert rows == other_rows
    assert weights.keys() == others.keys()
    for name, tensor in weights.items():
        assert torch.equal(tensor, others[name]), name
