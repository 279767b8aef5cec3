"""What is shown of runs that train: step, loss, speed and time left, under the bar of the whole."""

from __future__ import annotations

import io

from rich.console import Console

from qk_lightning.sweeps import progress
from qk_lightning.sweeps.progress import PlainProgress, RichProgress, describe_message

MESSAGE = {
    "step": 20,
    "max_steps": 80,
    "loss": 0.512345,
    "images_per_second": 64.4,
    "seconds_left": 125.0,
}
TEXT = "step 20/80, loss 0.5123, 64 images/s, 2 min left"


def test_a_message_is_one_line_and_what_is_unknown_is_left_out():
    assert describe_message(MESSAGE) == TEXT
    assert describe_message({}) == "starting"
    assert (
        describe_message({"step": 80, "max_steps": 80, "phase": "scoring"}) == "step 80/80, scoring"
    )


def test_plain_lines_tell_all_running_runs(monkeypatch):
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 0.0)
    lines: list[str] = []
    with PlainProgress(2, lambda: 90.0, lines.append) as show:
        show.start("a", "stage1 seed 0")
        show.update("a", MESSAGE)
        show.finish("a", "done")
    assert lines[0] == "start   stage1 seed 0"
    assert lines[1] == f"        stage1 seed 0: {TEXT}"
    assert lines[2].startswith("done    stage1 seed 0 (") and "1 of 2, about 2 min left" in lines[2]


def test_a_terminal_shows_each_run_nested_under_the_whole():
    show = RichProgress(2, lambda: 90.0)
    assert "0 of 2, about 2 min left" in _drawn(show)
    show.start("a", "stage1 seed 0")
    show.update("a", MESSAGE)
    lines = [line for line in _drawn(show).splitlines() if line.strip()]
    assert lines[0].startswith("all runs")
    assert lines[1].startswith("  stage1 seed 0")
    assert TEXT in lines[1]


def _drawn(show: RichProgress) -> str:
    console = Console(file=io.StringIO(), width=140, force_terminal=False)
    console.print(show._bars.get_renderable())
    return console.file.getvalue()
