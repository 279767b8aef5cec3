"""Chains of stages: what an override reaches, and what belongs to a run's identity."""

from __future__ import annotations

from pathlib import Path

import pytest

from qk_lightning.config.chain import plan_chain
from qk_lightning.config.errors import ConfigError

pytestmark = pytest.mark.usefixtures("tiny_presets")


def values(key: str, *overrides: str) -> list[object]:
    """Return an option's value in each stage."""
    plans = plan_chain("tiny/stage3", overrides)
    found = []
    for plan in plans:
        node = plan.cfg
        for step in key.split("."):
            node = node[step]
        found.append(node)
    return found


def test_ancestors_come_first_and_are_parents() -> None:
    plans = plan_chain("tiny/stage3")
    assert [plan.stage for plan in plans] == ["stage1", "stage2", "stage3"]
    assert plans[2].parent is plans[1]
    assert plans[2].parent_folder.identity == plans[1].identity


@pytest.mark.parametrize(
    ("key", "override", "expected"),
    [
        ("seed", "seed=5", [5, 5, 5]),
        ("data.world.size", "data.world.size=64", [64, 64, 64]),
        ("queries.num_queries", "queries.num_queries=8", [8, 8, 8]),
        ("connector.name", "connector=enc_proj", ["enc_proj"] * 3),
        ("head.num_layers", "head.num_layers=3", [1, 3, 3]),  # stage 2 has a new head
        ("optimizer.lr", "optimizer.lr=0.5", [1e-3, 1e-3, 0.5]),
        ("optimizer.lr", "stage1.optimizer.lr=0.5", [0.5, 1e-3, 1e-3]),
        ("trainer.max_steps", "all.max_steps=9", [9, 9, 9]),
        ("system.context", "all.system.context=queries", ["queries"] * 3),
    ],
)
def test_what_an_override_reaches(key: str, override: str, expected: list[object]) -> None:
    assert values(key, override) == expected


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("stage4.optimizer.lr=1", "a stage of this chain (stage1, stage2, stage3)"),
        ("stage1.optimizer.lrr=1", "did you mean 'lr'"),
        ("stage2.parent=tiny/stage9", "stage9"),
        ("parent=nowhere", "a preset, a run folder or an exported folder"),
    ],
)
def test_a_wrong_stage_or_parent_is_named(override: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan_chain("tiny/stage3", [override])
    assert said in str(caught.value)


def identities(*overrides: str) -> list[str]:
    return [plan.identity for plan in plan_chain("tiny/stage3", overrides)]


def test_only_what_shapes_a_result_changes_an_identity() -> None:
    before = identities()
    for same in ("all.name=other", "all.tracking.name=mlflow", "all.trainer.micro_batch_size=1",
                 "all.data.num_workers=2", "all.trainer.log_every=7", "all.optimizer.lr=1e-3",
                 "all.data.tasks.editing=0"):  # fmt: skip
        assert identities(same)[0] == before[0], same
    assert identities("all.trainer.micro_batch_size=1") == before


def test_a_change_reaches_the_descendants_and_leaves_the_ancestors() -> None:
    before, after = identities(), identities("stage2.optimizer.lr=0.5")
    assert after[0] == before[0]
    assert after[1] != before[1]
    assert after[2] != before[2]


def test_a_new_option_at_its_default_does_not_disown_old_runs(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "my_parts.py").write_text(PART)
    monkeypatch.syspath_prepend(str(root))
    from qk_lightning.config.schema import schema_of

    before = identities("connector=my_parts:Bridge")
    (root / "my_parts.py").write_text(
        PART.replace("width: int = 4", "width: int = 4, new: int = 1")
    )
    schema_of.cache_clear()
    assert identities("connector=my_parts:Bridge") == before
    (root / "my_parts.py").write_text(PART.replace("version = 1", "version = 2"))
    schema_of.cache_clear()
    assert identities("connector=my_parts:Bridge") != before
    schema_of.cache_clear()


PART = """
class Bridge:
    version = 1
    wired = ("input_size", "output_size")

    def __init__(self, *, input_size: int, output_size: int, width: int = 4) -> None:
        pass
"""


def test_moved_weights_are_the_same_weights_and_other_weights_are_not(
    tiny_vlm: Path, root: Path
) -> None:
    import shutil

    before = identities()
    copy = root / "copy"
    shutil.copytree(tiny_vlm, copy)
    assert identities(f"vlm.path={copy}") == before
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x07")
    assert identities(f"vlm.path={copy}") != before


def test_a_presets_seconds_belong_to_its_own_steps_and_batch(root: Path) -> None:
    own = "defaults: [tiny/stage1]\nreference_seconds: 30\ntrainer: {max_steps: 10}\n"
    (root / "experiments/mine.yaml").write_text(own)
    longer = "defaults: [mine]\ntrainer: {max_steps: 40}\n"
    (root / "experiments/longer.yaml").write_text(longer)
    batch = plan_chain("mine")[-1].cfg.trainer.global_batch_size
    assert plan_chain("mine")[-1].stretch == 1
    assert plan_chain("mine", ["max_steps=100"])[-1].stretch == 10
    assert plan_chain("mine", [f"global_batch_size={3 * batch}"])[-1].stretch == 3
    assert plan_chain("longer")[-1].stretch == 4
    assert plan_chain("mine", ["reference_seconds=5", "max_steps=100"])[-1].stretch == 1
