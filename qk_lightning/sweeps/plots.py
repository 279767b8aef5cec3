"""The plot of a sweep: a panel a metric, a line a stage, bars for the intervals over seeds.

Drawn without pyplot, so that a notebook's own figures and backend are left alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qk_lightning.config.atomic import aside
from qk_lightning.sweeps.file import SweepFile, label_value, last_word
from qk_lightning.sweeps.results import TableRow

PLAIN_TEXT: dict[Any, Any] = {"text.parse_math": False}  # a `$` in a name is a `$`


def write_plot(
    path: Path,
    file: SweepFile,
    table: Sequence[TableRow],
    levels: Mapping[str, tuple[str, float]],
) -> bool:
    """Draw metric by value of the first axis, for each stage.

    Args:
        path: the PNG to write.
        file: the sweep file; its first axis is the horizontal one, further axes make further
            lines.
        table: the rows.
        levels: what a metric is to be seen against; `chance` is drawn, a far-off ceiling is not.

    Returns:
        False when there is nothing to draw, and nothing was written.
    """
    if not file.axes or not any(row.metrics for row in table):
        return False
    from matplotlib import rc_context

    with rc_context(PLAIN_TEXT):
        _draw(path, file, table, levels)
    return True


def _draw(
    path: Path,
    file: SweepFile,
    table: Sequence[TableRow],
    levels: Mapping[str, tuple[str, float]],
) -> None:
    from matplotlib.figure import Figure

    metrics = list(file.metrics)
    figure = Figure(figsize=(4.4 * len(metrics), 3.8), layout="constrained")
    axes: Any = figure.subplots(1, len(metrics), squeeze=False)[0]
    for panel, metric in zip(axes, metrics, strict=True):
        draw_panel(panel, file, table, metric)
        name, level = levels.get(metric, ("", 0.0))
        if name == "chance":
            panel.axhline(level, color="gray", linestyle=":", label="chance")
        arrow = "lower is better" if file.metrics[metric] == "min" else "higher is better"
        panel.set_title(f"{metric} ({arrow})", fontsize=10)
    handles, labels = axes[0].get_legend_handles_labels()
    for panel in axes[1:]:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            if label not in labels:
                handles.append(handle)
                labels.append(label)
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    with aside(path) as temporary:
        figure.savefig(temporary, dpi=150)


def draw_panel(panel: Any, file: SweepFile, table: Sequence[TableRow], metric: str) -> None:
    """Draw one metric by value of the first axis, a line a stage, bars for the intervals.

    Args:
        panel: matplotlib's axes.
        file: the sweep file, with at least one axis.
        table: the rows.
        metric: the metric.
    """
    axis, values = next(iter(file.axes.items()))
    options = [value for n, value in enumerate(values) if value not in values[:n]]
    places = _places(options)
    are_numbers = all(type(value) in (int, float) for value in options)
    span = max(places) - min(places) or 1.0
    lines: dict[str, list[TableRow]] = {}
    for row in table:
        if row.metrics.get(metric) is not None:
            lines.setdefault(_line_name(row, file.along(axis)), []).append(row)
    stages = list(dict.fromkeys(row.stage for row in table))
    for index, (name, rows) in enumerate(lines.items()):
        colour = f"C{stages.index(rows[0].stage) % 10}"
        control = rows[0].control
        nth = _nth(name, lines, rows[0].stage) % 4
        style = {"marker": "os^v"[nth], "linestyle": "none"}  # between names is no trend
        if are_numbers:
            style = {"marker": "o", "linestyle": ("-", "--", "-.", ":")[nth]}
        if control:
            style = {"marker": "D", "linestyle": "none", "markerfacecolor": "none"}
        # Bars of lines that agree would hide each other.
        shift = span * (0.012 * (index % 4) + (0.06 if control else 0.0))
        xs = [_place(row, axis, options, places) + shift for row in rows]
        summaries = [row.metrics[metric] for row in rows]
        ys = [item.mean for item in summaries if item]
        bars = [item.half_width or 0.0 for item in summaries if item]
        panel.errorbar(xs, ys, yerr=bars, color=colour, capsize=3, label=name, **style)
    panel.set_xticks(places, [label_value("", one).removeprefix("=") for one in options])
    panel.set_xlabel(axis, fontsize=9)
    panel.tick_params(labelsize=8)
    panel.grid(alpha=0.25)


def _line_name(row: TableRow, along: Sequence[str]) -> str:
    if row.control:
        return f"{row.stage}, {row.row} (control)"
    others = [
        label_value(last_word(key), value) for key, value in row.values.items() if key not in along
    ]
    return ", ".join([row.stage, *others])


def _nth(name: str, lines: Mapping[str, Sequence[TableRow]], stage: str) -> int:
    """Return the number of a line among those of its stage: they share a colour."""
    same = [item for item, rows in lines.items() if rows[0].stage == stage]
    return same.index(name)


def _places(options: Sequence[Any]) -> list[float]:
    """Return horizontal places: evenly for words, by value or its logarithm for numbers."""
    if any(isinstance(option, bool) or not isinstance(option, int | float) for option in options):
        return [float(index) for index in range(len(options))]
    values = [float(option) for option in options]
    if min(values) > 0 and max(values) / min(values) >= 8:
        import math

        return [math.log2(value) for value in values]
    return values


def _place(row: TableRow, axis: str, options: Sequence[Any], places: Sequence[float]) -> float:
    """Return a row's place; a control without a value on the axis stands to the right."""
    if row.values.get(axis) in options:
        return places[options.index(row.values[axis])]
    span = max(places) - min(places) or 1.0
    return max(places) + 0.12 * span
