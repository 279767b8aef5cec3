"""Tables of a report's page: one stage's rows, sortable by any column; plain tables of words."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape

from qk_lightning.evaluation.levels import NAMES
from qk_lightning.sweeps.costs import format_large
from qk_lightning.sweeps.file import SweepFile
from qk_lightning.sweeps.results import TableRow
from qk_lightning.sweeps.statistics import Difference
from qk_lightning.sweeps.tables import (
    ARROWS,
    NamedLevels,
    best_row,
    format_difference,
    format_number,
    format_parameters,
    format_summary,
    measured,
    row_name,
)

COSTS = ("trained", "parameters", "s a step", "seconds", "images", "training FLOPs", "seeds")


def stage_table(file: SweepFile, rows: Sequence[TableRow], levels: NamedLevels) -> str:
    """Write one stage's rows as a sortable table, its levels as the last lines.

    Args:
        file: the sweep file.
        rows: the stage's rows.
        levels: what the scores are to be seen against.
    """
    metrics = measured(file, rows)
    compared = any(row.is_baseline for row in rows)
    heading = [", ".join(file.axes) or "row"]
    for metric, goal in metrics.items():
        heading += [f"{metric} ({ARROWS[goal]})", *(["difference to the baseline"] * compared)]
    lines = [_row(file, rows, row, metrics, compared) for row in rows]
    lines += _levels(metrics, levels, compared)
    heads = "".join(f"<th>{escape(text)}</th>" for text in (*heading, *COSTS))
    return (f'<div class="wide"><table class="sortable"><thead><tr>{heads}</tr></thead>\n<tbody>'
            + "\n".join(lines) + "</tbody></table></div>")  # fmt: skip


def _row(
    file: SweepFile,
    rows: Sequence[TableRow],
    row: TableRow,
    metrics: Mapping[str, str],
    compared: bool,
) -> str:
    cells = [_cell(row_name(row), row.row)]
    for metric, goal in metrics.items():
        summary = row.metrics[metric]
        best = "best" if row.row == best_row(rows, metric, goal) else ""
        cells.append(_cell(format_summary(summary), summary.mean if summary else None, best))
        if compared:
            cells.append(_difference(row, row.differences[metric]))
    parameters = [row.trainable, row.total]
    cells += [_cell("-" if n is None else format_parameters(n), n) for n in parameters]
    seconds = row.seconds_per_step
    cells.append(_cell("-" if seconds is None else f"{seconds:.3g}", seconds))
    for value, unit in ((row.cost.seconds, "s"), (row.cost.images, ""), (row.cost.flops, "FLOP")):
        cells.append(_cell(format_large(value, unit), value))
    all_done = row.seeds == file.seeds
    count = len(row.seeds)
    cells.append(_cell(str(count) if all_done else f"{count} of {len(file.seeds)}", count))
    return f"<tr>{''.join(cells)}</tr>"


def _difference(row: TableRow, difference: Difference | None) -> str:
    if row.is_baseline or difference is None:
        return _cell("baseline" if row.is_baseline else "-", 0.0 if row.is_baseline else None)
    shown = difference.verdict if difference.verdict in ("better", "worse") else "interval"
    kind = f"difference {shown}"
    details = []
    if difference.adjusted_p is not None:
        arms = f"{difference.arms} arm{'s' * (difference.arms != 1)}"
        details.append(f"p = {difference.p_value:.3g}, by Holm over {arms} "
                       f"{difference.adjusted_p:.3g}")  # fmt: skip
    if difference.detectable:
        details.append(f"detectable: {difference.detectable:.2g}")
    return _cell(format_difference(difference), difference.summary.mean, kind, "; ".join(details))


def _cell(text: str, key: object, kind: str = "", title: str = "") -> str:
    sort = "" if key is None else escape(str(key))
    more = f' class="{kind}"' if kind else ""
    more += f' title="{escape(title)}"' if title else ""
    whole = re.sub(r"\[[^\]]*\]", lambda found: found[0].replace(" ", "\u00a0"), text)
    return f'<td data-sort="{sort}"{more}>{escape(whole)}</td>'


def _levels(metrics: Mapping[str, str], levels: NamedLevels, compared: bool) -> list[str]:
    lines = []
    for control, name in NAMES.items():
        values = [levels.get(metric, {}).get(control) for metric in metrics]
        if all(value is None for value in values):
            continue
        cells = [_cell(name, name)]
        for value in values:
            cells.append(_cell("" if value is None else format_number(value), value))
            cells += [_cell("", None)] * compared
        cells += [_cell("", None)] * len(COSTS)
        lines.append(f'<tr class="level">{"".join(cells)}</tr>')
    return lines


def words_table(lines: Sequence[Sequence[str]], code: Sequence[str] = ()) -> str:
    """Write cells as a table of words.

    Args:
        lines: lines of cells, the heading first.
        code: headings of the columns that hold code.
    """
    heading, *body = lines
    heads = "".join(f"<th>{escape(text)}</th>" for text in heading)
    rows = []
    for cells in body:
        shown = [f"<code>{escape(text)}</code>" if name in code else escape(text)
                 for name, text in zip(heading, cells, strict=True)]  # fmt: skip
        rows.append("<tr>" + "".join(f"<td>{text}</td>" for text in shown) + "</tr>")
    return (f'<div class="wide"><table class="words"><thead><tr>{heads}</tr></thead>\n<tbody>'
            + "\n".join(rows) + "</tbody></table></div>")  # fmt: skip
