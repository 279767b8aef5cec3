"""Numbers as text: a mean with its interval, a difference with its verdict, tables of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from qk_lightning.evaluation.levels import NAMES
from qk_lightning.sweeps.comparable import is_loss
from qk_lightning.sweeps.file import SweepFile
from qk_lightning.sweeps.results import TableRow
from qk_lightning.sweeps.statistics import MIN_SEEDS, NOTHING_SHOWN, Difference, Summary
from qk_lightning.tracking.provenance import describe_changes

NamedLevels = Mapping[str, Mapping[str, float]]  # value by control, by metric
ARROWS = {"min": "lower is better", "max": "higher is better"}


def format_summary(summary: Summary | None) -> str:
    """Write a mean with half the width of its interval.

    Args:
        summary: the summary, None where nothing was measured.

    Returns:
        For example `0.1234 ± 0.0042`, or `0.1234 (2 seeds)` where there is no interval.
    """
    if summary is None:
        return "-"
    if summary.half_width is None:
        seeds = "1 seed" if summary.count == 1 else f"{summary.count} seeds"
        return f"{format_number(summary.mean)} ({seeds})"
    digits = decimals(summary.half_width, summary.mean)
    return f"{summary.mean:.{digits}f} ± {summary.half_width:.{digits}f}"


def format_difference(difference: Difference | None) -> str:
    """Write a difference with its interval and what that shows.

    Args:
        difference: the difference, None where there is none.

    Returns:
        For example `-0.031 [-0.050, -0.012] better`, `+0.01 [-0.04, +0.06] no difference shown
        (detectable: 0.08)`; `not finite` where a run diverged.
    """
    if difference is None:
        return ""
    summary = difference.summary
    if not math.isfinite(summary.mean):
        return "not finite"
    if summary.low is None or summary.high is None:
        return f"{summary.mean:+.4g} not tested ({summary.count} < {MIN_SEEDS} seeds)"
    if summary.low == summary.high == 0:
        return "the same"  # as of a control that shares its runs up to this stage
    digits = decimals(summary.half_width or 0.0, summary.mean)
    ends = f"[{summary.low:+.{digits}f}, {summary.high:+.{digits}f}]"
    return f"{summary.mean:+.{digits}f} {ends} {describe_verdict(difference)}"


def describe_verdict(difference: Difference) -> str:
    """Write what a difference shows; where it shows none, what it could have shown.

    Args:
        difference: the difference.

    Returns:
        For example `better`, `no difference shown (borderline, detectable: 0.12)`.
    """
    if difference.verdict != NOTHING_SHOWN or not difference.detectable:
        return difference.verdict
    word = "borderline, " if difference.borderline else ""
    return f"{difference.verdict} ({word}detectable: {difference.detectable:.2g})"


def decimals(half_width: float, mean: float) -> int:
    """Return how many decimals show two digits of an interval, or four of an exact mean.

    Args:
        half_width: half the interval's width.
        mean: the value itself.
    """
    for value, digits in ((half_width, 2), (mean, 4)):
        if value and math.isfinite(value):
            return min(8, max(0, digits - 1 - math.floor(math.log10(abs(value)))))
    return 4


def format_number(value: float) -> str:
    """Write a number with four digits that mean something.

    Args:
        value: the number.
    """
    return f"{value:.{decimals(0.0, value)}f}" if math.isfinite(value) else str(value)


def format_parameters(value: int) -> str:
    """Write a number of parameters.

    Args:
        value: the count.

    Returns:
        For example `1.84 M`, `12.3 k`.
    """
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return str(value)


def stage_cells(file: SweepFile, rows: Sequence[TableRow], levels: NamedLevels) -> list[list[str]]:
    """Make the table of one stage, with a line a control below its rows.

    Args:
        file: the sweep file.
        rows: the stage's rows.
        levels: what the scores are to be seen against.

    Returns:
        Lines of cells, the heading first.
    """
    compared = any(row.is_baseline for row in rows)
    metrics = measured(file, rows)
    heading = [", ".join(file.axes) or "row"]
    for metric, goal in metrics.items():
        heading += [f"{metric} ({ARROWS[goal]})"]
        heading += ["difference to the baseline"] if compared else []
    lines = [[*heading, "trained / all parameters", "s a step", "seeds"]]
    for row in rows:
        cells = [row_name(row)]
        for metric, goal in metrics.items():
            value = format_summary(row.metrics[metric])
            cells.append(f"**{value}**" if row.row == best_row(rows, metric, goal) else value)
            if compared:
                difference = format_difference(row.differences[metric])
                cells.append("baseline" if row.is_baseline else difference or "-")
        known = row.trainable is not None and row.total is not None
        parameters = (
            f"{format_parameters(row.trainable or 0)} / {format_parameters(row.total or 0)}"
        )
        cells.append(parameters if known else "-")
        cells.append("-" if row.seconds_per_step is None else f"{row.seconds_per_step:.3g}")
        seeds = f"{len(row.seeds)} of {len(file.seeds)}"
        lines.append([*cells, str(len(row.seeds)) if row.seeds == file.seeds else seeds])
    return lines + _level_cells(list(metrics), levels, compared)


def best_row(rows: Sequence[TableRow], metric: str, goal: str) -> str | None:
    """Name the row of the grid with the best mean; whether it differs is for the interval to say.

    Args:
        rows: one stage's rows.
        metric: the metric.
        goal: `min` or `max`.

    Returns:
        The row's name; None with fewer than two rows, where two share the best mean, or where
        the metric is a loss and is not the same quantity in all of them. A row that lacks seeds
        which another one has is left out: seeds differ more than rows do.
    """
    if is_loss(metric) and len({row.loss_units for row in rows if not row.control}) > 1:
        return None
    known = [(row, summary) for row in rows
             if not row.control and (summary := row.metrics[metric])]  # fmt: skip
    most = max((summary.count for _, summary in known), default=0)
    means = {row.row: summary.mean for row, summary in known
             if summary.count == most and math.isfinite(summary.mean)}  # fmt: skip
    best = (min if goal == "min" else max)(means.values(), default=None)
    names = [name for name, mean in means.items() if mean == best]
    return names[0] if len(names) == 1 and len(means) > 1 else None


def measured(file: SweepFile, rows: Sequence[TableRow]) -> dict[str, str]:
    """Return the sweep's metrics that some row of a stage has: its tasks say which there can be.

    Args:
        file: the sweep file.
        rows: the stage's rows.
    """
    return {
        metric: goal
        for metric, goal in file.metrics.items()
        if any(row.metrics[metric] is not None for row in rows)
    }


def _level_cells(metrics: Sequence[str], levels: NamedLevels, compared: bool) -> list[list[str]]:
    lines = []
    for control, name in NAMES.items():
        values = [levels.get(metric, {}).get(control) for metric in metrics]
        if all(value is None for value in values):
            continue
        cells = [f"*{name}*"]
        for value in values:
            cells += ["" if value is None else format_number(value), *([""] if compared else [])]
        lines.append([*cells, "", "", ""])
    return lines


def row_name(row: TableRow) -> str:
    """Write a row's name, whether it is a control, and `*` where other code made it.

    Args:
        row: the row.
    """
    name = row.row
    if row.control:
        name += f" (control; difference to {row.against})" if row.against else " (control)"
    return f"{name} *" if row.other_code else name


def other_code(rows: Sequence[TableRow]) -> list[str]:
    """Say what the `*` behind rows means, once for all of them.

    Args:
        rows: one stage's rows.

    Returns:
        One line, none where no row has the mark.
    """
    files = {file for row in rows for file in row.other_code}
    return [f"* other code: {describe_changes(files)}"] if files else []


def to_text(file: SweepFile, rows: Sequence[TableRow], levels: NamedLevels) -> str:
    """Write one stage's rows for a terminal: a line a row and metric, and one for the controls.

    Args:
        file: the sweep file.
        rows: the stage's rows.
        levels: what the scores are to be seen against.
    """
    lines = [f"{rows[0].stage}"]
    width = max(len(row_name(row)) for row in rows)
    metrics = measured(file, rows)
    for metric, goal in metrics.items():
        lines.append(f"  {metric} ({ARROWS[goal]})")
        for row in rows:
            summary = format_summary(row.metrics[metric])
            difference = format_difference(row.differences[metric])
            after = "baseline" if row.is_baseline else difference
            if row.row == best_row(rows, metric, goal):
                after = f"{after} (best mean)".lstrip()
            lines.append(f"    {row_name(row):<{width}}  {summary:<20}  {after}".rstrip())
        beside = [f"{NAMES[name]} {format_number(value)}"
                  for name, value in levels.get(metric, {}).items()]  # fmt: skip
        lines += [f"    against: {', '.join(beside)}"] if beside else []
    lines += [f"  {line}" for line in other_code(rows)]
    others = [metric for metric in file.metrics if metric not in metrics]
    lines += [f"  not measured in this stage: {', '.join(others)}"] if others else []
    return "\n".join(lines)
