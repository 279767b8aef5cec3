"""What a sweep file says: what is varied, over which seeds, against which baseline.

The rows of a sweep are the grid over its axes and, beside them, its controls. `reader` reads and
checks the file.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Row:
    """One row of the comparison: everything that its members share but the seed.

    Args:
        name: what stands in tables, for example `num_queries=4` or a control's name.
        values: value by axis; for a control, of those axes that its overrides set.
        control: True for a row that is no part of the grid.
        overrides: what it adds to the sweep's own overrides.
    """

    name: str
    values: dict[str, Any]
    control: bool
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class SweepFile:
    """A sweep file that was checked.

    Args:
        name: name of the sweep, of its folder and of its MLflow run.
        preset: the preset that every member trains; its ancestors come with it.
        overrides: overrides for every member.
        axes: values by dotted key; the grid is their product.
        controls: rows beside the grid.
        seeds: seeds of every row.
        baseline: axis values of the row that others are compared with; axes that it leaves out
            keep each row's own value (see also `baseline_of`). Empty: no comparison.
        metrics: `min` or `max` by metric, in the order of the report.
        slots: runs at the same time; 0: as many as the GPUs or the cores hold, else two.
        threads: threads a run.
        gpus: GPUs of its own that a run gets, at least its `trainer.devices`; None: those, where
            the machine has GPUs; 0: none is given out, and all runs see all.
        cores: cores that a run is bound to; 0: not bound.
        executor: `name` (local | ray | submitit) of the engine that trains, and its settings.
        path: the file, None when it was made in memory.
    """

    name: str
    preset: str
    overrides: tuple[str, ...] = ()
    axes: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    controls: tuple[Row, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)
    baseline: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, str] = field(default_factory=lambda: {"val/loss": "min"})
    slots: int = 0
    threads: int = 1
    gpus: int | None = None
    cores: int = 0
    executor: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None

    def grid(self) -> list[Row]:
        """Return the rows of the grid, the first axis slowest."""
        several = [dict(zip(self.axes, values, strict=True))
                   for values in itertools.product(*self.axes.values())]  # fmt: skip
        rows = [_row(values, label_value) for values in several]
        if len({row.name for row in rows}) < len(rows):  # `mlp` and `{name: mlp}`
            rows = [_row(values, _label_exactly) for values in several]
        return rows

    def rows(self) -> list[Row]:
        """Return the rows of the grid, then the controls."""
        return [*self.grid(), *self.controls]

    def baseline_of(self, row: Row) -> Row | None:
        """Return the grid row that a row is compared with, None where there is none.

        A control that sets every axis is compared with the grid row of the same values, so that
        the two differ in the control's other overrides alone.

        Args:
            row: a row of the grid or a control.
        """
        if not self.baseline:
            return None
        wanted = [row.values] if row.control else []
        for values in [*wanted, {**row.values, **self.baseline}]:
            found = next((item for item in self.grid() if item.values == values), None)
            if found is not None:
                return found
        return None


def _row(values: dict[str, Any], label: Callable[[str, Any], str]) -> Row:
    shown = [label(key.rsplit(".", 1)[-1], value) for key, value in values.items()]
    overrides = tuple(f"{key}={format_value(value)}" for key, value in values.items())
    return Row(", ".join(shown) or "all", values, False, overrides)


def label_value(name: str, value: Any) -> str:
    """Write an option and its value for people.

    Args:
        name: the option, the last word of its key.
        value: a plain value, a list or a mapping.

    Returns:
        For example `num_queries=4`; of a part's options `connector=mlp residual=true`; of another
        mapping `tasks=(editing=1 customised=2)`.
    """
    if not isinstance(value, dict) or not value:
        return f"{name}={format_value(value)}"
    words = [label_value(str(key), item) for key, item in value.items() if key != "name"]
    if "name" in value:
        return " ".join([f"{name}={format_value(value['name'])}", *words])
    return f"{name}=({' '.join(words)})"


def _label_exactly(name: str, value: Any) -> str:
    return f"{name}={format_value(value)}"


def format_value(value: Any) -> str:
    """Write a value as it stands in an override.

    Args:
        value: a plain value or a list.

    Returns:
        For example `4`, `true`, `enc_proj`, `[1, 2]`.
    """
    return value if isinstance(value, str) else json.dumps(value)
