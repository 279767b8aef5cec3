"""`--redo` deletes nothing that it cannot train again, and nothing while it only plans."""

from __future__ import annotations

import pytest

from qk_lightning.cli.main import main
from qk_lightning.config.chain import plan_chain
from qk_lightning.config.errors import Problem
from qk_lightning.config.run_folder import RunFolder
from qk_lightning.sweeps import preflight

pytestmark = pytest.mark.usefixtures("tiny_presets")
OTHER_CODE = '{"qk_lightning/config/paths.py": "of another day"}'


def finish(preset: str, *overrides: str) -> list[RunFolder]:
    """Make the run folders of a chain as other code would have left them."""
    folders = []
    for plan in plan_chain(preset, overrides):
        folder = plan.write()
        folder.sources_json.write_text(OTHER_CODE)
        folder.write_status(state="done", seconds=1.0)
        folders.append(folder)
    return folders


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    """Run a command and return what it printed."""
    assert main(words) == code
    captured = capsys.readouterr()
    return captured.out + captured.err


def test_a_plan_deletes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    folders = finish("tiny/stage2")
    text = said(capsys, "fit", "tiny/stage2", "--plan", "--redo")
    assert f"removed and trained again: {folders[0].name}, {folders[1].name}" in text
    assert text.count("runs (4 steps)") == 2
    assert all(folder.is_done for folder in folders)
    assert "done, by other code" in said(capsys, "fit", "tiny/stage2", "--plan")


def test_a_sweep_plan_deletes_nothing(capsys: pytest.CaptureFixture[str], root) -> None:
    folders = finish("tiny/stage1", "seed=0")
    (root / "one.yaml").write_text("preset: tiny/stage1\nseeds: [0]\n")
    text = said(capsys, "sweep", str(root / "one.yaml"), "--plan", "--redo")
    assert f"removed and trained again: {folders[0].name}" in text
    assert "0 done, 1 to run" in text
    assert folders[0].is_done


def test_what_fails_the_check_is_not_deleted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = finish("tiny/stage2")

    def refuse(texts: list[object], here: bool) -> list[Problem]:
        return [Problem("runs to check", len(texts), "parts that fit together")]

    monkeypatch.setattr(preflight, "problems_of", refuse)
    text = said(capsys, "fit", "tiny/stage2", "--redo", code=2)
    assert "runs to check = 2" in text  # both are done, and both would be trained again
    assert all(folder.is_done for folder in folders)


def test_a_run_that_others_need_is_not_deleted(capsys: pytest.CaptureFixture[str]) -> None:
    first, second, third = finish("tiny/stage3")
    text = said(capsys, "fit", "tiny/stage1", "--redo", code=2)
    assert f"qk runs rm {third.name} && qk runs rm {second.name}" in text
    assert first.is_done
