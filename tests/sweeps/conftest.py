"""A project of its own for each test, and chains of fake stages in place of presets."""

from __future__ import annotations

import fake_stages
import pytest

from qk_lightning.sweeps import page, report, reproduce
from qk_lightning.sweeps import plan as plan_module
from qk_lightning.sweeps.plan import plan_sweep
from qk_lightning.sweeps.reader import parse_sweep
from qk_lightning.sweeps.run import run_sweep


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty project root whose presets are fake chains."""
    monkeypatch.setenv("QK_ROOT", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for module in (plan_module, reproduce):
        monkeypatch.setattr(module, "plan_chain", fake_stages.plan_chain)
    (tmp_path / "runs").mkdir()
    return tmp_path


@pytest.fixture
def sweep_of():
    """Make a sweep file in memory."""

    def make(widths=(1, 4), seeds=(0, 1, 2), name="widths", **more):
        return parse_sweep(
            {
                "name": name,
                "preset": "fake",
                "axes": {"width": list(widths)},
                "seeds": list(seeds),
                "baseline": {"width": widths[0]},
                "metrics": {"val/loss": "min", "eval/avatars/accuracy": "max"},
                **more,
            }
        )

    return make


@pytest.fixture
def trained(project):
    """Train a sweep's fake stages in this process, as far as they are not done; plan it again."""

    def call(sweep):
        for run in plan_sweep(sweep).to_run:
            run.plan.write()
            fake_stages.run_stage(run.folder.path)
        return plan_sweep(sweep)

    return call


@pytest.fixture
def without_plots(monkeypatch):
    """Leave matplotlib out of reports: most of what they take."""
    monkeypatch.setattr(report, "write_plot", lambda *_: False)
    for name, nothing in (("metric_plots", {}), ("cost_plots", {}), ("loss_plot", "")):
        monkeypatch.setattr(page, name, lambda *_, nothing=nothing: nothing)


@pytest.fixture
def run(without_plots):
    """Run a sweep with fake stages and without plots; return the result and what was printed."""

    def call(sweep, **more):
        printed: list[str] = []
        options = {"plain": True, "target": fake_stages.TARGET, "preload": fake_stages.PRELOAD}
        result = run_sweep(sweep, write=printed.append, **{**options, **more})
        return result, "\n".join(printed)

    return call
