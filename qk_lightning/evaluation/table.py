"""A summary for people: each score with its interval, and the controls beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from qk_lightning.evaluation.levels import NAMES

WIDTH = 120  # of a file or a pipe


def print_summary(summary: Mapping[str, Any], console: Console | None = None) -> None:
    """Print a summary as a table.

    Args:
        summary: what summary.json holds.
        console: where; the standard output by default.
    """
    console = console or Console()
    if not console.is_terminal:
        console.width = max(console.width, WIDTH)
    entries = summary["metrics"]
    shown = [name for name in NAMES if any(name in entry["controls"] for entry in entries.values())]
    title = f"{summary['suite']}: {summary['run']}"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("metric", no_wrap=True)
    for heading in ("value", "95 % interval", "n", *(NAMES[name] for name in shown)):
        table.add_column(heading, justify="right", no_wrap=True)
    for key, entry in entries.items():
        beside = [number(entry["controls"].get(name)) for name in shown]
        low, high = entry["ci_low"], entry["ci_high"]
        interval = "-" if low is None else f"{number(low)} .. {number(high)}"
        table.add_row(
            key.rpartition("/")[2],
            number(entry["value"]),
            interval,
            str(entry["num_planned"]),
            *beside,
        )
    console.print(table)
    missing = summary["num_missing"]
    console.print(
        f"{summary['num_scored']} of {summary['num_planned']} pictures scored"
        + (f"; {missing} missing count as failed" if missing else "")
        + f"; read by {', '.join(summary['readers'])}",
        highlight=False,
    )
    splits = summary["by_split"]
    if len(splits) > 1:
        words = [
            f"{name} {number(of['value'])} (n {of['num_planned']})" for name, of in splits.items()
        ]
        console.print("right by what was held out: " + ", ".join(words), highlight=False)
    for note in summary["notes"]:
        console.print(f"note: {note}", highlight=False)


def number(value: float | None) -> str:
    """Write a share with three decimals, a larger number with two.

    Args:
        value: the number, None where there is none.
    """
    if value is None:
        return "-"
    return f"{value:.3f}" if abs(value) <= 1 else f"{value:.2f}"
