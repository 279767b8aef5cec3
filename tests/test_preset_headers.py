"""Every preset says above its values which command uses it, and what was measured."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from doc_commands import REPOSITORY, plan

PRESETS = sorted((REPOSITORY / "experiments").rglob("*.yaml"))
# "On 2 cores of an Intel Xeon: about 20 minutes"
MEASURED = re.compile(r"On .*(core|thread|GPU).*: .*\d+ (s|minutes?|hours?)\b")
ELSEWHERE = re.compile(r"Hardware, time and result: see (\S+)\.$", re.M)


def header(preset: Path) -> str:
    """Return the comment above a preset's values, without its marks."""
    lines = []
    for line in preset.read_text().splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").removeprefix(" "))
    return "\n".join(lines)


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_header_says_what_it_is_how_to_run_it_and_what_was_measured(
    preset: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    (root / "my.jsonl").write_text("")
    (root / "smollm2").mkdir()  # which its header says how to make
    text = header(preset)
    assert not text.splitlines()[0].startswith("  "), "the first line says what it is"
    said = [re.sub(r" {2,}\(.*", "", line) for line in re.findall(r"^  (qk .*)$", text, re.M)]
    assert said, "no line such as `#   qk fit laptop/stage1`"
    for line in said:
        plan(shlex.split(line)[1:])
    elsewhere = ELSEWHERE.search(text)
    if elsewhere:
        assert (REPOSITORY / elsewhere[1]).is_file()
    else:
        assert MEASURED.search(" ".join(text.split())) or re.search("not measured", text, re.I)


def test_a_header_without_figures_is_seen() -> None:
    assert not MEASURED.search("On 2 cores: fast")
    assert MEASURED.search(
        "On one thread of an Intel Xeon, beside another run: about 40 s; val/loss"
    )
