"""Timing steps side by side: what is planned, what is refused, and that it comes to ratios."""

from __future__ import annotations

import json

import pytest

from qk_lightning.bench.side_by_side import Entrant, Timing
from qk_lightning.bench.timings import ratio, timings_table
from qk_lightning.bench.variants import AS_IT_IS, configuration, entrants_of
from qk_lightning.cli.main import main

pytestmark = pytest.mark.usefixtures("tiny_presets")


def test_a_frozen_vlm_is_timed_with_a_joint_forward_too() -> None:
    for preset, splits in (("tiny/stage2", True), ("tiny/stage1", False)):
        names = [entrant.name for entrant in entrants_of(preset, [], [], 2)]
        assert names[0] == AS_IT_IS
        assert ("no prefix split" in names) == splits
        assert "2 ranks, fsdp" in names and "bf16-mixed" not in names


def test_a_text_length_is_a_group_of_its_own() -> None:
    entrants = entrants_of("tiny/stage2", [], ["joint"], 2, (8, 16))
    assert [entrant.group for entrant in entrants] == ["8 text tokens"] * 2 + ["16 text tokens"] * 2
    assert "max_prompt_tokens: 16" in entrants[2].arguments[0]


def test_a_step_is_timed_without_its_parent() -> None:
    cfg = configuration("tiny/stage2", ["trainer.devices=2"], 3)
    assert cfg.parent is None and cfg.from_parent == {} and cfg.tracking.name == "none"
    assert cfg.trainer.devices == 2 and cfg.trainer.log_every == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tiny/stage2", "--variants", "jont"], "joint"),
        (["tiny/stage2", "--variants", "trainer.compil_e=x"], "trainer.compil_e"),
        (["tiny/stage1", "--variants", "joint"], "frozen VLM"),
        (["tiny/stage2", "--only", "mlp"], "has no use for it"),
        (["tiny/stage2", "--steps", "0"], "1 or more"),
        (["seed=1"], "a preset before its overrides"),
    ],
)
def test_a_mistake_is_refused_before_anything_is_timed(words, said, capsys) -> None:
    assert main(["bench", "train", *words]) == 2
    assert said in capsys.readouterr().err


def test_a_ratio_is_of_the_same_turn() -> None:
    first, other = (Timing(Entrant(name, "", ()), memory={"step": 2**20}) for name in "ab")
    first.seconds, other.seconds = [1.0, 10.0, 1.0], [0.5, 5.0, 1.0]
    first.turns, other.turns = [{"processor": 0.5}] * 3, [{"processor": s} for s in (0.1, 0.2, 9)]
    assert ratio(other, first) == 2.0
    failed = Timing(Entrant("c", "", ()), failed="out of luck")
    table = timings_table([first, other, failed])
    assert "| b | 1,000 | 500 to 5,000 | 2.00 x | 200 | 2.50 x | 1 MiB |" in table
    assert "failed (1)" in table and table.endswith("1. out of luck")


@pytest.mark.slow
@pytest.mark.distributed
def test_variants_of_a_step_take_turns(tmp_path, capsys) -> None:
    page = tmp_path / "speed.md"
    wrong = "trainer.micro_batch_size=3"  # composes, and no group divides by it
    words = ["--variants", "joint", "ddp", "trainer.precision=bf16-mixed", wrong]
    options = ["--repetitions", "2", "--steps", "1", "--text-lengths", "16", "--output", str(page)]
    assert main(["bench", "train", "tiny/stage2", *words, *options]) == 1
    rows = json.loads(page.with_suffix(".json").read_text())["train tiny/stage2"]["rows"]
    names = [row["variant"] for row in rows]
    assert names == ["as it is", "no prefix split", "2 ranks, ddp", words[3], wrong]
    *timed, refused = rows
    assert "micro_batch_size" in refused["failed"] and not refused["seconds"]
    for row in timed:
        assert not row["failed"], row
        assert len(row["seconds"]) == 2 and all(row["seconds"])
        assert row["speed"] > 0 and row["memory"]["step"] > 0
        assert len(row["turns"]) == 2 and row["turns"][1]["perf/seconds/vlm"] > 0
    assert timed[0]["speed"] == 1.0
    assert "| 16 text tokens | no prefix split |" in page.read_text()


@pytest.mark.slow
def test_the_prefix_table_has_all_its_rows(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("qk_lightning.bench.prefix.make_vlm", small(tmp_path))
    page = tmp_path / "speed.md"
    words = ["data.world={name: scenes, num_scenes: 8, num_val: 8}", "queries.num_queries=4"]
    options = ["--repetitions", "2", "--steps", "1", "--text-lengths", "24", "--output", str(page)]
    assert main(["bench", "prefix", *words, *options]) == 0
    rows = json.loads(page.with_suffix(".json").read_text())["prefix"]["rows"]
    found = {(row["group"], row["variant"]): row for row in rows}
    assert len(found) == 5
    alone = {way: found["VLM alone, 24", way]["memory"]["held"]
             for way in ("joint forward", "prefix split", "kept prefix")}  # fmt: skip
    assert alone["prefix split"] == alone["kept prefix"] < alone["joint forward"]
    assert all(row["speed"] > 0 for row in rows)
    worked = [tuple(turn["processor"] for turn in row["turns"]) for row in rows]
    assert len(set(worked)) == len(rows)  # each has its own


def small(folder):
    """Return what makes a smaller VLM."""
    from qk_lightning.bench import prefix

    make = prefix.make_vlm
    return lambda target: make(target, width=64, num_layers=2)
