"""Timings as a Markdown table and as JSON: medians, spread, ratios to a group's first.

Not here: how they come about (side_by_side.py).
"""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qk_lightning.bench.side_by_side import Timing
from qk_lightning.config.atomic import write_json

SPLIT = ("data", "vlm", "head", "backward", "optimizer")


def timings_table(timings: Sequence[Timing], memory: str = "memory") -> str:
    """Write a row an entrant.

    Args:
        timings: those of a group stand together, its first one leads.
        memory: heading of the column of memory.

    Returns:
        Markdown; what failed stands below, numbered.
    """
    split = [name for name in SPLIT if any(f"perf/seconds/{name}" in t.details for t in timings)]
    held = any("held" in timing.memory for timing in timings)
    grouped = any(timing.entrant.group for timing in timings)
    heading = [*(["prompts"] if grouped else []), "variant", "ms a step", "spread", "speed"]
    heading += ["processor ms", "speed by it", memory]
    heading += [*(["held for backward"] if held else []), *split]
    rule = ["---", *(["---"] if grouped else []), *["---:"] * (len(heading) - 1 - grouped)]
    lines, failed = [heading, rule], []
    for timing in timings:
        row = [timing.entrant.group] if grouped else []
        row.append(timing.entrant.name)
        if timing.failed:
            failed.append(timing.failed)
            row += [f"failed ({len(failed)})", *[""] * (len(heading) - len(row) - 1)]
        else:
            row += _cells(timing, _first(timings, timing), held, split)
        lines.append(row)
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    reasons = [f"{place}. {text}" for place, text in enumerate(failed, 1)]
    return "\n".join([table, *([""] if failed else []), *reasons])


def _cells(timing: Timing, first: Timing, held: bool, split: Sequence[str]) -> list[str]:
    low, high = min(timing.seconds), max(timing.seconds)
    cells = [f"{timing.median * 1000:,.0f}", f"{low * 1000:,.0f} to {high * 1000:,.0f}"]
    cells.append("1" if first is timing else _ratio(timing, first))
    worked = timing.details["processor"]
    cells.append(f"{worked * 1000:,.0f}")
    cells.append("1" if first is timing else _share(worked, first))
    cells.append(_mebibytes(timing.memory["step"]))
    if held:
        cells.append(_mebibytes(timing.memory["held"]) if "held" in timing.memory else "")
    for name in split:
        seconds = timing.details.get(f"perf/seconds/{name}")
        cells.append("" if seconds is None else f"{seconds * 1000:,.0f}")
    return cells


def _ratio(timing: Timing, first: Timing) -> str:
    return "" if first.failed else f"{ratio(timing, first):.2f} x"


def _share(worked: float, first: Timing) -> str:
    return "" if first.failed else f"{first.details['processor'] / worked:.2f} x"


def ratio(timing: Timing, first: Timing) -> float:
    """Return how many times as fast as another an entrant is.

    The median over turns of the ratio within a turn: what disturbs a turn disturbs both.

    Args:
        timing: the entrant's.
        first: the other's.
    """
    pairs = zip(timing.seconds, first.seconds, strict=True)
    return statistics.median(theirs / ours for ours, theirs in pairs)


def _first(timings: Sequence[Timing], timing: Timing) -> Timing:
    return next(other for other in timings if other.entrant.group == timing.entrant.group)


def _mebibytes(number: int) -> str:
    return f"{number / 2**20:,.0f} MiB"


def as_json(timings: Sequence[Timing], about: dict[str, Any]) -> dict[str, Any]:
    """Return plain values of all that was measured.

    Args:
        timings: as for the table.
        about: what was asked for.
    """
    rows = []
    for timing in timings:
        first = _first(timings, timing)
        can_compare = not (timing.failed or first.failed)
        rows.append(
            {
                "variant": timing.entrant.name,
                "group": timing.entrant.group,
                "ranks": timing.entrant.ranks,
                "seconds": timing.seconds,
                "speed": ratio(timing, first) if can_compare else None,
                "memory": timing.memory,
                "turns": timing.turns,
                "failed": timing.failed,
            }
        )
    return {"cores": os.cpu_count(), **about, "rows": rows}


def keep_json(file: Path, section: str, values: dict[str, Any]) -> None:
    """Put a section's values into a JSON file, beside those of other sections.

    Args:
        file: made if it is missing.
        section: its key.
        values: plain values.
    """
    old = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    write_json(file, {**old, section: values})
