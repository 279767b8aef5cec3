"""Losses of another autoencoder or objective are refused with the reason; other metrics are not."""

from __future__ import annotations

import pytest

from qk_lightning.config.errors import ConfigError
from qk_lightning.sweeps.comparable import is_loss
from qk_lightning.sweeps.plan import plan_sweep
from qk_lightning.sweeps.results import TableRow
from qk_lightning.sweeps.statistics import summarise
from qk_lightning.sweeps.tables import best_row

PICTURES = {"eval/avatars/attributes": "max"}
BOTH = {"val/loss": "min", **PICTURES}
AUTOENCODERS = {"autoencoder": ["pixels", "tiny"]}


def sweep(axes, metrics, baseline=None, **more):
    key = next(iter(axes))
    return {
        "name": "compared",
        "preset": "avatars/stage1",
        "axes": axes,
        "seeds": [0],
        "baseline": {key: axes[key][0]} if baseline is None else baseline,
        "metrics": metrics,
        **more,
    }


def refusal(values):
    with pytest.raises(ConfigError) as caught:
        plan_sweep(values)
    (problem,) = caught.value.problems
    return problem


@pytest.fixture(autouse=True)
def _root(tmp_path, monkeypatch):
    monkeypatch.setenv("QK_ROOT", str(tmp_path))


@pytest.mark.parametrize(
    ("axes", "reason"),
    [
        (AUTOENCODERS, "another autoencoder"),
        ({"objective.shift": [1.0, 3.0]}, "another objective"),
        ({"objective": ["flow_matching", "ddpm"]}, "another objective"),
    ],
)
def test_a_loss_of_another_kind_is_refused_with_the_reason(axes, reason):
    problem = refusal(sweep(axes, BOTH))
    assert problem.key == "metrics.val/loss"
    assert f"has {reason} than its baseline" in problem.expected
    assert "compare by eval/... metrics" in problem.fix


def test_scores_of_pictures_compare_across_autoencoders():
    assert len(plan_sweep(sweep(AUTOENCODERS, PICTURES)).members) == 2


def test_controls_are_held_to_it_too():
    control = {"name": "raw", "overrides": ["autoencoder=pixels"]}
    axes = {"queries.num_queries": [1, 4]}
    assert (
        "'raw' has another autoencoder" in refusal(sweep(axes, BOTH, controls=[control])).expected
    )


def test_rows_are_compared_by_loss_within_each_autoencoder():
    axes = {"queries.num_queries": [1, 4], **AUTOENCODERS}
    assert len(plan_sweep(sweep(axes, BOTH)).members) == 4
    assert "another autoencoder" in refusal(sweep(axes, BOTH, {"autoencoder": "tiny"})).expected


def test_weights_of_the_training_loss_leave_validation_comparable():
    axes = {"objective.weighting": ["none", "cosmap"]}
    assert len(plan_sweep(sweep(axes, BOTH)).members) == 2
    assert refusal(sweep(axes, {"train/loss": "min"})).key == "metrics.train/loss"


def test_a_sweep_that_trains_autoencoders_compares_them_by_loss():
    axes = {"autoencoder.latent_channels": [8, 16]}
    values = {**sweep(axes, {"val/loss": "min"}), "preset": "laptop/codec"}
    assert len(plan_sweep(values).members) == 2


def test_no_best_mean_among_losses_of_different_kinds():
    def row(name, loss, units):
        metrics = {"val/loss": summarise([loss]), "eval/x/y": summarise([loss])}
        return TableRow("stage1", name, {}, False, False, (0,), metrics, None, {}, None, None,
                        None, (), loss_units=units)  # fmt: skip

    rows = [row("a", 1.0, "one"), row("b", 2.0, "other")]
    assert best_row(rows, "val/loss", "min") is None
    assert best_row(rows, "eval/x/y", "max") == "b"
    assert best_row([row("a", 1.0, "one"), row("b", 2.0, "one")], "val/loss", "min") == "a"


def test_a_row_that_lacks_a_seed_has_no_best_mean():
    def row(name, *losses):
        seeds = tuple(range(len(losses)))
        metrics = {"val/loss": summarise(losses)}
        return TableRow("stage1", name, {}, False, False, seeds, metrics, None, {}, None, None,
                        None, ())  # fmt: skip

    rows = [row("whole", 1.0, 1.0, 2.0), row("also", 1.0, 1.0, 2.1), row("lacks", 1.0, 1.0)]
    assert best_row(rows, "val/loss", "min") == "whole"
    assert best_row(rows[1:], "val/loss", "min") is None


@pytest.mark.parametrize(
    ("metric", "known"),
    [("val/loss", True), ("val/loss/editing", True), ("train/loss", True), ("val/psnr", False),
     ("eval/x/loss", False)],
)  # fmt: skip
def test_losses_are_known_by_name(metric, known):
    assert is_loss(metric) == known
