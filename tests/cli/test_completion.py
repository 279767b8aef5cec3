"""The tab key: words for verbs, presets, options and runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from qk_lightning.cli.main import main


def complete(line: str) -> list[str]:
    """Ask as a shell does, and return the words that come back on its file descriptor 8."""
    variables = {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(Path(os.environ["QK_ROOT"]) / "words"),
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_COMP_WORDBREAKS": " \t\n\"'><;|&(",  # without `=` and `:`
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "COMP_TYPE": "9",
    }
    code = "import sys; sys.argv = ['qk']; from qk_lightning.cli.main import main; main()"
    subprocess.run([sys.executable, "-c", code], env={**os.environ, **variables}, check=True)
    text = Path(variables["_ARGCOMPLETE_STDOUT_FILENAME"]).read_text()
    return [word.strip() for word in text.split("\n")]


@pytest.mark.parametrize(
    ("line", "wanted", "unwanted"),
    [
        ("qk do", "doctor", "fit"),
        ("qk fit laptop/st", "laptop/stage1", "sweeps/smoke"),
        ("qk sweep sweeps/sm", "sweeps/smoke", "laptop/stage1"),
        ("qk fit laptop/stage1 --", "--redo", "--explain"),
        ("qk fit laptop/stage1 trainer.max", "trainer.max_steps=", "seed="),
        ("qk fit laptop/stage1 connector=", "connector=enc_proj", "connector=flux"),
        ("qk runs show mine", "mine-0123456789", "laptop/stage1"),
        ("qk evaluate mine-0123456789 sce", "scenes", "mine-0123456789"),
    ],
)
def test_the_tab_key_knows_the_word(root: Path, line: str, wanted: str, unwanted: str) -> None:
    run = root / "runs/mine-0123456789"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("name: mine\n")
    words = complete(line)
    assert wanted in words
    assert unwanted not in words


def test_the_shells_code_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    assert "complete -o" in capsys.readouterr().out
