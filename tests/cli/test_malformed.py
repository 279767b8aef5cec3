"""Every wrong step is answered kindly: what is at fault, how to mend it, and nothing is lost.

The tables of wrong steps stand in `malformed_*.py`, one file an area.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import malformed_config
import malformed_data
import malformed_runs
import malformed_weights
import malformed_words
import pytest
from malformed_case import Case, tree

from qk_lightning.cli.main import main

AREAS = {
    "config": malformed_config.CASES,
    "data": malformed_data.CASES,
    "weights": malformed_weights.CASES,
    "words": malformed_words.CASES,
    "runs": malformed_runs.CASES,
}
CASES = [
    pytest.param(area, case, id=f"{area}: {case.name}")
    for area, cases in AREAS.items()
    for case in cases
]


def outcome(words: list[str]) -> int | str | None:
    """The exit code of a command, whether it returns it or leaves with it as argparse does."""
    try:
        return main(words)
    except SystemExit as end:
        return end.code


@pytest.mark.usefixtures("tiny_presets")
@pytest.mark.parametrize(("area", "case"), CASES)
def test_a_wrong_step_is_answered_kindly(
    area: str,
    case: Case,
    root: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if area in ("words", "runs"):
        shutil.copytree(request.getfixturevalue("trained_root") / "runs", root / "runs")
    elif area == "weights":  # with the tiny world drawn, which is not what these are about
        shutil.copytree(request.getfixturevalue("trained_root") / "runs/cache", root / "runs/cache")
        shutil.copytree(request.getfixturevalue("tiny_vlm"), root / "vlm")
    monkeypatch.chdir(root)
    case.write(root)
    before = tree(root)
    assert outcome(case.command(root)) == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.out + captured.err
    for part in case.says:
        assert part.replace("ROOT", str(root)) in captured.err
    after = tree(root)
    assert {name: after.get(name) for name in before} == before
    assert [name for name in after if name not in before and not case.may_write(name)] == []
