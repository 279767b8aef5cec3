"""`qk config --explain` and `--write`: every option explained, and a file that composes again."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from qk_lightning.cli.explain import explanations
from qk_lightning.cli.main import main
from qk_lightning.cli.readers_of import readers_of
from qk_lightning.config.chain import StagePlan, plan_chain


@functools.cache
def stage3() -> list[StagePlan]:
    """Plan laptop/stage3 once for all questions about it."""
    return plan_chain("laptop/stage3")


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `qk config laptop/stage3` take the plan that is there."""
    monkeypatch.setattr("qk_lightning.cli.config.plan_chain", lambda *_: stage3())


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    assert main(words) == code
    captured = capsys.readouterr()
    return captured.out + captured.err


@pytest.mark.usefixtures("planned")
@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("data.world.worlds.scenes.num_scenes", ["int = 2000", "now: 2000", "Scenes ("]),
        ("data.world.worlds.scenes.weight", ["0 = off", "now: 1.0"]),
        ("world.worlds.avatars", ["DiceBear", "options: size"]),
        ("trainable.head.lora.rank", ["rank of the update", "int = 16", "now: 32"]),
        ("trainable.vlm", ["`full`, `frozen`", "now: frozen"]),
        ("from_parent.head", ["`merge`", "now: load"]),
        ("optimizer.lr", ["peak learning rate", "now: 0.005", "systems/base.py:"]),
        ("max_steps", ["optimiser steps", "from 1", "config/compose.py:"]),
        ("num_queries", ["queries.num_queries: int", "every stage of the chain"]),
        ("tracking.name", ["no part of a run's identity"]),
        ("stage1.max_steps", ["trainer.max_steps", "now: 100"]),
        ("data.tasks.editing", ["weight of each task", "now: 1.0"]),
        ("optimizer", ["AdamW and its schedule", "options: lr,"]),
    ],
)
def test_an_option_is_explained(key: str, expected: list[str], capsys) -> None:
    text = said(capsys, "config", "laptop/stage3", "--explain", key)
    assert [word for word in expected if word not in text] == []


@pytest.mark.usefixtures("planned")
@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (
            "data.world.worlds.scenes.num_scens",
            "did you mean 'data.world.worlds.scenes.num_scenes'",
        ),
        ("path", "write one of: "),
        ("trainable.vlms", "did you mean 'trainable.vlm"),
        ("zzz", "known: "),
    ],
)
def test_an_option_that_is_not_there_has_a_way_out(key: str, expected: str, capsys) -> None:
    assert expected in said(capsys, "config", "laptop/stage3", "--explain", key, code=2)


def test_every_value_of_a_configuration_is_explained() -> None:
    cfg = stage3()[-1].cfg
    known = explanations(cfg)

    def leaves(node, prefix=""):
        for key, value in node.items():
            is_nested = isinstance(value, dict) and value
            yield from leaves(value, f"{prefix}{key}.") if is_nested else [f"{prefix}{key}"]

    without = [key for key in leaves(OmegaConf.to_container(cfg)) if not known[key].doc]
    assert without == []


def test_readers_are_found_through_a_name_for_the_section() -> None:
    assert any(line.startswith("systems/base.py:") for line in readers_of("optimizer", "schedule"))
    assert readers_of("optimizer", "no_such_option") == []


@pytest.mark.parametrize("preset", ["laptop/stage3", "laptop/codec", "laptop/vlm"])
def test_a_written_configuration_is_the_same_run(preset: str, root: Path, capsys) -> None:
    file = root / "experiments" / "mine.yaml"
    text = said(capsys, "config", preset, "--write", str(file))
    assert f"written: {file}" in text
    assert plan_chain("mine")[-1].identity == plan_chain(preset)[-1].identity
    lines = file.read_text().splitlines()
    assert any(f"experiments/{preset}.yaml:" in line for line in lines)
    assert "  # linear warm-up, in optimiser steps." in lines
    assert max(len(line) for line in lines if line.lstrip().startswith("#")) <= 100
    assert (
        plan_chain("mine", ["trainer.max_steps=7"])[-1].identity != plan_chain("mine")[-1].identity
    )


def test_changed_ancestors_are_written_beside_it(root: Path, capsys) -> None:
    overrides = ["seed=4", "stage1.optimizer.lr=1e-3", "connector=enc_proj"]
    text = said(capsys, "config", "laptop/stage3", *overrides, "--write", str(root / "b.yaml"))
    assert text.count("written: ") == 3
    wanted = [plan.identity for plan in plan_chain("laptop/stage3", overrides)]
    assert [plan.identity for plan in plan_chain(root / "b.yaml")] == wanted


def test_nothing_is_replaced_without_force(root: Path, capsys) -> None:
    file = root / "c.yaml"
    file.write_text("mine: 1\n")
    words = ["config", "laptop/codec", "--write", str(file)]
    assert "add --force" in said(capsys, *words, code=2)
    assert file.read_text() == "mine: 1\n"
    said(capsys, *words, "--force")
    assert "identity" not in file.read_text().splitlines()[-1]
    assert "laptop_codec" in file.read_text()
    assert "a .yaml file" in said(capsys, *words[:-1], str(root / "d"), code=2)
    assert [path.name for path in root.iterdir() if ".part" in path.name] == []
