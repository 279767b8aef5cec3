"""What a sweep's report is made of, as Markdown or as a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qk_lightning.sweeps.plan import SweepPlan
from qk_lightning.sweeps.results import RunResult, TableRow
from qk_lightning.sweeps.tables import NamedLevels


@dataclass(frozen=True)
class Contents:
    """All that a report tells.

    Args:
        plan: the sweep.
        results: a result for each member and finished stage.
        table: the rows over seeds.
        levels: what scores are to be seen against, by stage.
        failures: lines on runs that failed or were skipped.
        grids: file of the sample grid by stage, relative to the sweep's folder.
    """

    plan: SweepPlan
    results: Sequence[RunResult]
    table: Sequence[TableRow]
    levels: Mapping[str, NamedLevels]
    failures: Sequence[str]
    grids: Mapping[str, str]

    @property
    def rows_by_stage(self) -> dict[str, list[TableRow]]:
        """The rows of each stage, in the order of the table."""
        found: dict[str, list[TableRow]] = {}
        for row in self.table:
            found.setdefault(row.stage, []).append(row)
        return found
