"""Cells as a Markdown table: numbers to the right, the first column to the left."""

from __future__ import annotations

from collections.abc import Sequence


def to_markdown(lines: Sequence[Sequence[str]]) -> str:
    """Write cells as a Markdown table.

    Args:
        lines: lines of cells, the heading first.

    Returns:
        The table, without a line break at its end.
    """
    heading, *body = ([_plain(cell) for cell in cells] for cells in lines)
    rule = ["---", *("---:" for _ in heading[1:])]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (heading, rule, *body))


def _plain(cell: str) -> str:
    """Keep a name from ending its cell, its line, or from being read as HTML."""
    return " ".join(cell.split()).replace("|", r"\|").replace("<", "&lt;")
