"""The overhead of a sweep is measured on real plans and real processes."""

from __future__ import annotations

import os

from qk_lightning.bench.sweep_overhead import overhead_table, sweep_overhead


def test_a_small_sweep_is_planned_run_and_reported() -> None:
    root = os.environ["QK_ROOT"]
    overhead = sweep_overhead(4)
    assert (overhead.members, overhead.runs) == (4, 12)
    assert 0 < overhead.process < overhead.train
    assert "| plan 4 members, 12 runs |" in overhead_table(overhead)
    assert os.environ["QK_ROOT"] == root
