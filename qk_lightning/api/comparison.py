"""What a sweep shows, for a notebook: its table as rows, its plot and its samples as pictures."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qk_lightning.api.pictures import open_picture, sample_grid
from qk_lightning.api.runs import Run
from qk_lightning.config.errors import ConfigError, Problem, did_you_mean
from qk_lightning.sweeps.file import SweepFile, format_value
from qk_lightning.sweeps.plan import SweepPlan
from qk_lightning.sweeps.report import REPORT_FILE
from qk_lightning.sweeps.results import TableRow, collect_results, make_table
from qk_lightning.sweeps.tables import stage_cells

if TYPE_CHECKING:
    from PIL.Image import Image


class Comparison:
    """The members of a sweep side by side.

    Args:
        plan: the sweep, with what is done marked in its graph.
        result: what its `result.json` holds.
        failures: lines on runs that failed or were skipped.
    """

    def __init__(
        self, plan: SweepPlan, result: Mapping[str, Any], failures: Sequence[str] = ()
    ) -> None:
        self.plan = plan
        self.result = dict(result)
        self.failures = list(failures)
        self.table: list[TableRow] = make_table(plan, collect_results(plan))

    @property
    def name(self) -> str:
        """The sweep's name."""
        return self.plan.file.name

    @property
    def stages(self) -> list[str]:
        """The stages that are compared, first ancestor first."""
        return list(dict.fromkeys(row.stage for row in self.table))

    @property
    def report(self) -> Path:
        """The report in Markdown."""
        return self.plan.folder / REPORT_FILE

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The table, a row for each stage, member row and metric: `pandas.DataFrame(c.rows)`.

        `low` and `high` are the ends of the 95 % t interval of `mean` over seeds,
        `difference_low` and `difference_high` those of the paired difference to the row named in
        `compared_with`; None where there are fewer than 3 seeds, but for differences that have an
        interval over items (`interval_over`). See docs/read_a_report.md.
        """
        found = []
        for row in self.table:
            for metric, summary in row.metrics.items():
                difference = row.differences[metric]
                between = difference.summary if difference else None
                found.append(
                    {
                        "stage": row.stage,
                        "row": row.row,
                        **row.values,
                        "control": row.control,
                        "metric": metric,
                        "seeds": summary.count if summary else 0,
                        "mean": summary.mean if summary else None,
                        "low": summary.low if summary else None,
                        "high": summary.high if summary else None,
                        "compared_with": row.against,
                        "difference": between.mean if between else None,
                        "difference_low": between.low if between else None,
                        "difference_high": between.high if between else None,
                        "interval_over": difference.basis if difference else None,
                        "adjusted_p": difference.adjusted_p if difference else None,
                        "detectable": difference.detectable if difference else None,
                        "verdict": difference.verdict if difference else None,
                    }
                )
        return found

    def run(self, row: str, stage: str | None = None, seed: int | None = None) -> Run:
        """Return the run of one member.

        Args:
            row: the row's name, such as `num_queries=4`.
            stage: the stage; None = the last.
            seed: the seed; None = the first.

        Raises:
            ConfigError: the sweep has no such row, stage or seed.
        """
        file = self.plan.file
        stage = stage or self.plan.stages[-1]
        seed = file.seeds[0] if seed is None else seed
        known = {"row": [item.name for item in file.rows()], "stage": self.plan.stages}
        for key, value in (("row", row), ("stage", stage)):
            if value not in known[key]:
                expected = f"a {key} of the sweep"
                raise ConfigError(Problem(key, value, expected, did_you_mean(value, known[key])))
        for member in self.plan.members:
            if (member.row.name, member.seed) == (row, seed):
                planned = next(item for item in member.chain if item.stage == stage)
                return Run(planned.folder.path)
        raise ConfigError(Problem("seed", seed, f"one of {list(file.seeds)}", "choose one"))

    def plot(self) -> Image | None:
        """Return the plot of the metrics against the first axis; None before there is one."""
        file = self.plan.folder / "plot.png"
        return open_picture(file) if file.is_file() else None

    def samples(self, stage: str | None = None, seed: int | None = None) -> Image | None:
        """Show what the rows draw, one line a row: the same prompts, inputs and noise.

        Args:
            stage: the stage; None = the last.
            seed: the seed; None = the first.

        Returns:
            The picture, None where nothing is drawn yet.
        """
        rows = [row.name for row in self.plan.file.rows()]
        return sample_grid({row: self.run(row, stage, seed) for row in rows})

    def with_values(self, axis: str, *values: Any, name: str | None = None) -> SweepFile:
        """Return the sweep with further values of an axis, for `qk_lightning.sweep`.

        What is done already is not done again, so only the new members train.

        Args:
            axis: an axis of the sweep, such as `queries.num_queries`.
            *values: the values to add.
            name: the new sweep's name; None makes one from the values.

        Raises:
            ConfigError: the sweep has no such axis, or it advances together with another.
        """
        file = self.plan.file
        if axis not in file.axes:
            fix = did_you_mean(axis, file.axes)
            raise ConfigError(Problem("axis", axis, "an axis of the sweep", fix))
        if file.search:
            fix = "give `search: {trials: ...}` a larger number"
            raise ConfigError(Problem("axis", axis, "a sweep that does not search", fix))
        if len(along := file.along(axis)) > 1:
            fix = "write the sweep anew, with a value of each"
            expected = f"an axis that advances alone ({', '.join(along)} do together)"
            raise ConfigError(Problem("axis", axis, expected, fix))
        new = [value for value in values if value not in file.axes[axis]]
        words = "_".join(re.sub(r"\W+", "_", format_value(value)) for value in new)
        own = name or (f"{file.name}_{words}" if new else file.name)
        axes = {**file.axes, axis: (*file.axes[axis], *new)}
        return replace(file, name=own, axes=axes, path=None)

    def __repr__(self) -> str:
        """The table as text, as the command line prints it."""
        none = f"{self.name}: no finished run has one of the sweep's metrics yet"
        return "\n".join([self.result.get("summary") or none, *self.failures])

    def _repr_html_(self) -> str:
        """The table, one for each stage, with the controls as its last lines."""
        blocks = [f"<b>{escape(self.name)}</b>"]
        for stage in self.stages:
            rows = [row for row in self.table if row.stage == stage]
            levels = self.result.get("levels", {}).get(stage, {})
            blocks.append(f"<p>{escape(stage)}</p>")
            blocks.append(_html_table(stage_cells(self.plan.file, rows, levels)))
        blocks += [f"<p>{escape(line)}</p>" for line in self.failures]
        return "\n".join(blocks) if self.table else f"<pre>{escape(repr(self))}</pre>"


def _html_table(lines: Sequence[Sequence[str]]) -> str:
    heading, *body = lines
    rows = ["<tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in heading) + "</tr>"]
    for cells in body:
        shown = [f"<i>{escape(cell.strip('*'))}</i>" if cell.startswith("*") else escape(cell)
                 for cell in cells]  # fmt: skip
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in shown) + "</tr>")
    return "<table>" + "".join(rows) + "</table>"
