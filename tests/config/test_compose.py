"""Composing presets: order, swapping, origins, and every kind of mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from qk_lightning.config.compose import compose
from qk_lightning.config.errors import ConfigError
from qk_lightning.config.paths import list_presets

BASE = """
system: {name: autoencoder, kl_weight: 0.5}
data: {world: {name: avatars, size: 64}, tasks: {text_to_image: 1}}
autoencoder: {name: kl, latent_channels: 8}
trainable: {autoencoder: full}
"""


@pytest.fixture
def preset(root: Path) -> Path:
    folder = root / "experiments"
    folder.mkdir()
    (folder / "base.yaml").write_text(BASE)
    (folder / "mine.yaml").write_text("defaults: [base]\ntrainer: {max_steps: 7}\n")
    return folder / "mine.yaml"


def problems_of(preset: str | Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        compose(preset, overrides)
    return str(caught.value)


def test_a_file_goes_over_its_defaults_and_overrides_go_over_both(preset: Path) -> None:
    cfg = compose("mine", ["trainer.max_steps=9", "optimizer.lr=1e-4"]).cfg
    assert cfg.trainer.max_steps == 9
    assert cfg.optimizer.lr == 1e-4
    assert cfg.autoencoder.latent_channels == 8
    assert cfg.trainer.global_batch_size == 64  # the section's own default


def test_every_value_that_is_not_a_default_has_an_origin_with_its_line(preset: Path) -> None:
    origins = compose("mine", ["seed=3"]).origins
    assert origins["trainer.max_steps"] == "experiments/mine.yaml:2"
    assert origins["autoencoder.latent_channels"] == "experiments/base.yaml:4"
    assert origins["seed"] == "command line"


def test_naming_another_part_replaces_the_old_one_with_all_its_options(preset: Path) -> None:
    cfg = compose("mine", ["autoencoder.patch=4", "autoencoder=pixels"]).cfg  # in any order
    assert dict(cfg.autoencoder) == {"name": "pixels", "patch": 4, "scale": 1.0}


def test_tasks_given_as_a_whole_replace_those_below_and_a_single_one_joins(preset: Path) -> None:
    preset.write_text("defaults: [base]\ndata: {tasks: {editing: 2}}\n")
    assert dict(compose("mine").cfg.data.tasks) == {"editing": 2}
    single = compose("mine", ["data.tasks.customised=1"]).cfg.data.tasks
    assert dict(single) == {"editing": 2, "customised": 1}
    composed = compose("mine", ["data.tasks={multi_subject: 1}"])
    assert dict(composed.cfg.data.tasks) == {"multi_subject": 1}
    assert "data.tasks.editing" not in composed.origins


def test_a_part_on_the_command_line_brings_its_own_file(preset: Path, root: Path) -> None:
    (root / "experiments" / "autoencoder").mkdir()
    file = root / "experiments" / "autoencoder" / "pixels.yaml"
    file.write_text("autoencoder: {name: pixels, patch: 16}\n")
    assert compose("mine", ["autoencoder=pixels"]).cfg.autoencoder.patch == 16


def test_a_bare_option_of_one_section_is_completed(preset: Path) -> None:
    assert compose("mine", ["max_steps=5"]).cfg.trainer.max_steps == 5


def test_interpolation_sees_the_overrides(preset: Path, root: Path) -> None:
    text = "defaults: [base]\nvalidation: {every: '${trainer.max_steps}'}\n"
    (root / "experiments" / "points.yaml").write_text(text)
    assert compose("points", ["trainer.max_steps=11"]).cfg.validation.every == 11


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("autoencoder=klx", "did you mean 'kl'"),
        ("autoencoder.latent_chanels=3", "did you mean 'latent_channels'"),
        ("autoencoder.latent_channels=many", "expected int"),
        ("autoencoder.latent_channels=2.5", "expected int"),
        ("trainer.precision=32", "precision"),
        ("optimiser.lr=1", "did you mean 'optimizer'"),
        ("latent_channels=8", "write autoencoder.latent_channels"),
        ("trainable.head=full", "a part of the system"),
        ("trainable.autoencoder=half", "full"),
        ("connector=mlp", "only parts that the system uses"),
        ("data.world.size=x", "expected int"),
        ("data.world=nowhere", "expected a world"),
        ("trainer.max_steps=0", "1 or more"),
        ("data.groups_per_step=7", "a multiple of 7"),
        ("seed=one", "int"),
        ("from_parent.autoencoder=load", "a parent to load from"),
        ("trainer", "key=value"),
        ("autoencoder=my_lab.missing:Codec", "a module 'my_lab.missing'"),
        ("autoencoder=os:path", "a module 'os' with a .py file"),
        ("autoencoder=sys:path", "a module 'sys' with a .py file"),
        ("interpolated=${nothing.there}", "nothing"),
    ],
)
def test_a_mistake_is_named_with_its_fix(preset: Path, override: str, said: str) -> None:
    assert said in problems_of("mine", override)


def test_all_problems_come_at_once_with_the_file_of_each(preset: Path, root: Path) -> None:
    bad = root / "experiments" / "bad.yaml"
    bad.write_text("defaults: [mine]\ntrainer:\n  max_stepz: 3\noptimizer: {lr: fast}\n")
    text = problems_of("bad", "autoencoder.patch=2")
    assert text.startswith("3 problems")
    assert "experiments/bad.yaml:3" in text
    assert "experiments/bad.yaml:4" in text
    assert "command line" in text


def test_a_preset_that_does_not_exist_is_answered_with_the_nearest(preset: Path) -> None:
    assert "did you mean 'mine'" in problems_of("mime")


@pytest.mark.parametrize("text", ["a: [1, 2", "- 1\n- 2\n", "a: 1\na: 2\n"])
def test_a_file_that_is_no_mapping_of_yaml_is_named(root: Path, text: str) -> None:
    (root / "experiments").mkdir()
    (root / "experiments" / "odd.yaml").write_text(text)
    assert "experiments/odd.yaml" in problems_of("odd")


def test_a_cycle_of_defaults_is_found(root: Path) -> None:
    (root / "experiments").mkdir()
    (root / "experiments" / "a.yaml").write_text("defaults: [b]\n")
    (root / "experiments" / "b.yaml").write_text("defaults: [a]\n")
    assert "cycle" in problems_of("a")


def test_every_shipped_preset_composes() -> None:
    worlds = ("avatars/", "laptop/", "scenes/")
    presets = [name for name in list_presets() if name.startswith(worlds)]
    assert len(presets) >= 16
    for name in presets:
        if name not in ("laptop/base", "laptop/stage"):  # made to be built upon
            assert compose(name).cfg.system.name


def test_every_shipped_sweep_is_right() -> None:
    from qk_lightning.sweeps.plan import plan_sweep

    sweeps = [name for name in list_presets() if name.startswith("sweeps/")]
    assert "sweeps/num_queries" in sweeps
    for name in sweeps:
        plan = plan_sweep(name)
        assert plan.members or plan.file.search  # whose rows come one by one


def test_a_suite_that_is_none_is_named() -> None:
    assert "did you mean 'scenes'" in problems_of("laptop/stage1", "validation.suites=[scene]")
