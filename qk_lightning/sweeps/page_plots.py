"""Plots of a report's page, as SVG texts: metrics by axis, quality against cost, loss curves.

Drawn without pyplot. Text stays text, so it is small, can be searched, and is escaped.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from qk_lightning.sweeps.comparable import is_loss
from qk_lightning.sweeps.costs import format_large
from qk_lightning.sweeps.file import SweepFile
from qk_lightning.sweeps.plots import PLAIN_TEXT, draw_panel
from qk_lightning.sweeps.results import RunResult, TableRow

STYLE: dict[Any, Any] = {
    **PLAIN_TEXT,
    "svg.fonttype": "none",
    "svg.hashsalt": "qk",
    "font.family": "sans-serif",
}
MAX_POINTS = 150  # of a loss curve: neighbours are averaged beyond
PANEL, LEGEND_LINE = (4.6, 2.9), 0.17  # inches
LEGEND_KEY, LEGEND_LETTER = 0.45, 0.058  # inches: the mark beside a label, a letter of it
LOSS = "train/loss"


def _svg(draw: Callable[[Any], None], panels: int = 1) -> str:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(PANEL[0] * panels, PANEL[1]))
        draw(figure)
        _arrange(figure, panels)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    return text[text.index("<svg") :]


def _arrange(figure: Any, panels: int) -> None:
    """Set margins in inches, the legend below: matplotlib's own layouts draw everything twice."""
    handles, labels = _legend(figure)
    columns, labels = fit_legend(labels, PANEL[0] * panels, 2 * panels)
    below = 0.55 + LEGEND_LINE * math.ceil(len(labels) / columns)
    width, height = PANEL[0] * panels, PANEL[1] + below
    figure.set_size_inches(width, height)
    figure.subplots_adjust(left=0.6 / width, right=1 - 0.15 / width, bottom=below / height,
                           top=1 - 0.3 / height, wspace=0.25)  # fmt: skip
    if handles:
        figure.legend(handles, labels, loc="lower center", ncols=columns, fontsize=7, frameon=False)


def fit_legend(labels: Sequence[str], width: float, most: int) -> tuple[int, list[str]]:
    """Choose a legend's columns so that none is cut off, and shorten what fits in no line.

    Args:
        labels: its labels.
        width: of the figure, in inches.
        most: columns, at most.

    Returns:
        The columns, and the labels.
    """
    longest = max((len(label) for label in labels), default=0)
    columns = min(most, max(1, int(width / (LEGEND_KEY + LEGEND_LETTER * longest))))
    room = int((width / columns - LEGEND_KEY) / LEGEND_LETTER)
    return columns, [text if len(text) <= room else f"{text[: room - 1]}…" for text in labels]


def _legend(figure: Any) -> tuple[list[Any], list[str]]:
    found: dict[str, Any] = {}
    for panel in figure.axes:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    return list(found.values()), list(found)


def metric_plots(
    file: SweepFile, table: Sequence[TableRow], levels: Mapping[str, tuple[str, float]]
) -> dict[str, str]:
    """Draw each metric by the first axis, with intervals over seeds.

    Args:
        file: the sweep file.
        table: the rows.
        levels: name and value of a level by metric; `chance` is drawn.

    Returns:
        SVG by metric; {} without an axis.
    """
    found = {}
    for metric, goal in file.metrics.items():
        if not file.axes or all(row.metrics.get(metric) is None for row in table):
            continue

        def _draw(figure: Any, metric: str = metric, goal: str = goal) -> None:
            panel = figure.subplots()
            draw_panel(panel, file, table, metric)
            name, level = levels.get(metric, ("", 0.0))
            if name == "chance":
                panel.axhline(level, color="gray", linestyle=":", label="chance")
            _title(panel, metric, goal)

        found[metric] = _svg(_draw)
    return found


def cost_plots(file: SweepFile, rows: Sequence[TableRow]) -> dict[str, str]:
    """Draw quality against parameters, and against training FLOPs where they were counted.

    Args:
        file: the sweep file.
        rows: one stage's rows.

    Returns:
        SVG by metric; the line joins rows that no other one beats in both.
    """
    found = {}
    for metric, goal in file.metrics.items():
        if is_loss(metric) and len({row.loss_units for row in rows if row.metrics[metric]}) > 1:
            continue
        known = [row for row in rows
                 if (mean := row.metrics[metric]) and math.isfinite(mean.mean)]  # fmt: skip
        costs: dict[str, Sequence[float | None]] = {
            "parameters": [row.total for row in known],
            "training FLOPs, all stages": [row.chain_cost.flops for row in known],
        }
        shown = {name: values for name, values in costs.items() if any(values)}
        if len(known) < 2 or not shown:
            continue

        def _draw(
            figure: Any,
            shown: Mapping[str, Sequence[float | None]] = shown,
            known: Sequence[TableRow] = known,
            metric: str = metric,
            goal: str = goal,
        ) -> None:
            panels = figure.subplots(1, len(shown), squeeze=False)[0]
            for panel, (name, values) in zip(panels, shown.items(), strict=True):
                _scatter(panel, known, values, metric, goal)
                panel.set_xlabel(name, fontsize=9)
                _title(panel, metric, goal)

        found[metric] = _svg(_draw, len(shown))
    return found


def _scatter(
    panel: Any, rows: Sequence[TableRow], costs: Sequence[float | None], metric: str, goal: str
) -> None:
    points = []
    for index, (row, cost) in enumerate(zip(rows, costs, strict=True)):
        summary = row.metrics[metric]
        if not cost or summary is None:
            continue
        points.append((float(cost), summary.mean))
        marker = "D" if row.control else "o"
        panel.errorbar([cost], [summary.mean], yerr=[summary.half_width or 0.0], fmt=marker,
                       color=f"C{index % 10}", capsize=3, label=row.row)  # fmt: skip
    front = pareto(points, goal)
    if len(front) > 1:
        xs, ys = zip(*front, strict=True)
        panel.plot(xs, ys, color="gray", linewidth=1, linestyle="--", zorder=0)
    panel.margins(x=0.15)
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    digits = _digits([cost for cost, _ in points])
    panel.xaxis.set_major_locator(MaxNLocator(4))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda at, _: format_large(at, "", digits)))
    _finish(panel)


def _digits(costs: Sequence[float]) -> int:
    """Return how many digits tell the costs apart: rows often differ by a few parameters."""
    span = max(costs) - min(costs) if costs else 0.0
    return 3 if span <= 0 else max(3, 2 + math.ceil(math.log10(max(costs) / span)))


def pareto(points: Sequence[tuple[float, float]], goal: str) -> list[tuple[float, float]]:
    """Choose the points that no other one beats: no cheaper one is as good.

    Args:
        points: cost and quality.
        goal: whether less (`min`) or more (`max`) quality is better.

    Returns:
        The chosen ones, the cheapest first.
    """
    sign = 1 if goal == "min" else -1
    front: list[tuple[float, float]] = []
    for cost, quality in sorted(set(points), key=lambda point: (point[0], sign * point[1])):
        if not front or sign * quality < sign * front[-1][1]:
            front.append((cost, quality))
    return front


def loss_plot(results: Sequence[RunResult], metric: str = LOSS) -> str:
    """Draw the loss of one stage's runs over steps: a colour a row, a thin line a seed.

    Args:
        results: one stage's results.
        metric: the loss.

    Returns:
        SVG, "" where no run has it.
    """
    rows: dict[tuple[str, ...], list[str]] = {}  # rows that share all runs are one line
    of_row = {name: tuple(item.folder.name for item in results if item.row.name == name)
              for name in dict.fromkeys(item.row.name for item in results)}  # fmt: skip
    for name, runs in of_row.items():
        rows.setdefault(runs, []).append(name)
    folders = {item.folder.name: item.folder for item in results}
    curves = {name: _curve(folder.metrics(), metric) for name, folder in folders.items()}
    if not any(curves.values()):
        return ""

    def _draw(figure: Any) -> None:
        panel = figure.subplots()
        for index, (runs, names) in enumerate(rows.items()):
            label = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
            style = {"color": f"C{index % 10}", "linestyle": ("-", "--", ":")[index // 10 % 3]}
            for curve in filter(None, (curves[run] for run in runs)):
                xs, ys = zip(*curve, strict=True)
                panel.plot(xs, ys, linewidth=0.9, alpha=0.7, label=label, **style)
        panel.set_xlabel("step", fontsize=9)
        _title(panel, metric, "min")
        _finish(panel)

    return _svg(_draw)


def _curve(lines: Sequence[Mapping[str, Any]], metric: str) -> list[tuple[float, float]]:
    """Return (step, value), neighbours averaged where there are many."""
    points = [(float(line["step"]), line["value"]) for line in lines
              if line["metric"] == metric and math.isfinite(line["value"])]  # fmt: skip
    size = math.ceil(len(points) / MAX_POINTS) or 1
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(math.fsum(step for step, _ in group) / len(group),
             math.fsum(value for _, value in group) / len(group)) for group in groups]  # fmt: skip


def _title(panel: Any, metric: str, goal: str) -> None:
    arrow = "lower is better" if goal == "min" else "higher is better"
    panel.set_title(f"{metric} ({arrow})", fontsize=9)


def _finish(panel: Any) -> None:
    panel.tick_params(labelsize=8)
    panel.grid(alpha=0.25)
