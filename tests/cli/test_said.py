"""What commands say: of wrong values, of finished and of resumed runs, of swapped parts."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from qk_lightning.assembly.weights import describe, read_entries
from qk_lightning.cli.main import main
from qk_lightning.cli.train import describe_scores
from qk_lightning.config.find_runs import find_run, list_runs
from qk_lightning.evaluation.levels import NAMES, read_levels

pytestmark = pytest.mark.usefixtures("tiny_presets")


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    """Run a command and return what it printed."""
    assert main(words) == code
    captured = capsys.readouterr()
    return captured.out + captured.err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("fit tiny/stage1 seed=1.5", "write a whole number, such as 1"),
        ("fit tiny/stage1 queries.num_queries=lots", "write a whole number, such as 1\n"),
        ("fit tiny/stage1 trainer.precision=half", "write one of: 32-true, 16-mixed"),
        ("fit tiny/stage1 stage2.max_steps=8", "a preset that has stage2, such as tiny/stage2"),
        (
            "fit tiny/stage1 max_steps=20 trainer.max_steps=30",
            "'max_steps=20 trainer.max_steps=30'",
        ),
        ("sweep sweeps/smoke stage1.seed=1 stage1.seed=2", "stage1.seed = "),
        ("generate x --num-images 0", "1 or more\n    fix: for example 1"),
    ],
)
def test_a_wrong_value_has_a_fix_in_words(
    words: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = said(capsys, *words.split(), code=2)
    assert expected in text
    assert "ValueError" not in text and "could not be converted" not in text


def test_a_stage_may_be_set_apart_from_all(capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, "fit", "tiny/stage2", "all.max_steps=2", "stage1.max_steps=3", "--plan")


def test_a_plan_names_the_part_that_is_swapped(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "fit", "tiny/stage1", "connector=enc_proj", "seed=1", "--plan")
    assert "with connector=enc_proj (was mlp), seed=1" in text
    assert "was" not in said(capsys, "fit", "tiny/stage1", "connector=mlp", "--plan")


@pytest.fixture
def trained(trained_root: Path, root: Path) -> Path:
    """A copy of the trained chain in this test's root."""
    shutil.copytree(trained_root / "runs", root / "runs")
    return root


@pytest.mark.usefixtures("trained")
def test_nothing_to_draw_is_a_mistake(capsys: pytest.CaptureFixture[str], root: Path) -> None:
    words = ("generate", "stage2", "--output", str(root / "out"))
    assert 'fix: --prompt "a person with red hair"' in said(capsys, *words, code=2)
    assert "1 picture of stage2" in said(capsys, *words, "--prompt", "")


def test_the_list_tells_runs_apart(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (old, _) = list_runs()
    (old.path / "overrides.json").unlink()
    head, *lines = said(capsys, "runs", "list").splitlines()
    assert head.split()[-3:] == ["seed", "made", "with"]
    assert [line.split()[6:] for line in lines] == [["0"], ["0", "max_steps=1"]]


def test_a_finished_run_names_the_controls_that_it_shows(trained: Path) -> None:
    run = find_run("stage2")
    shown = {name for metric, levels in read_levels(run.path).items() for name in levels
             if metric in run.last_metrics()}  # fmt: skip
    lines = describe_scores(run)
    names = [line.strip().partition(":")[0] for line in lines if line.startswith("  ")]
    assert names == [name for control, name in NAMES.items() if control in shown]
    assert names and "mean over seeds" not in "\n".join(lines)


def test_what_a_resumed_run_trained_comes_from_its_checkpoint(trained: Path) -> None:
    entries = read_entries(find_run("stage1"))
    trainable = {"queries": "full", "vlm": {"lora": {"rank": 2}}, "head": "frozen"}
    lines = dict(line.split(maxsplit=1) for line in describe(entries, trainable, 31))
    assert lines["queries"] == "from its checkpoint, step 31"
    assert lines["vlm"].endswith("+ LoRA from its checkpoint, step 31")
    assert "checkpoint" not in lines["head"] + lines["connector"]
