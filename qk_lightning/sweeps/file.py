"""What a sweep file says: what is varied, over which seeds, against which baseline.

The rows of a sweep are the grid over its axes, or those that it lists by name, and, beside them,
its controls. `reader` reads and checks the file.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from qk_lightning.config.paths import sweeps_root
from qk_lightning.sweeps.budget_rule import Budget
from qk_lightning.sweeps.space import Search, Space

SWEEP_COPY = "sweep.yaml"  # in a sweep's own folder, see kept.py
ROW_LETTERS = 200
ROW_NAME = f"one line of at most {ROW_LETTERS} letters"  # it stands in tables and in MLflow


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
        axes: values by dotted key, which may begin with a stage; the grid is their product.
        zipped: groups of axes that advance together: the first value of each, then the second, ...
        listed: rows by name in place of a grid.
        controls: rows beside the grid or the list.
        seeds: seeds of every row.
        baseline: axis values of the row that others are compared with; axes that it leaves out
            keep each row's own value (see also `baseline_of`). The name of a listed row, where
            rows are listed. Empty: no comparison.
        metrics: `min` or `max` by metric, in the order of the report.
        budget: what all rows spend alike, None where each has its own steps.
        search: how rows are chosen in place of a grid; None where there is a grid or a list.
        space: what a search chooses from by key; then `axes` has the values that were tried.
        steps: overrides by row that spend it (`budget.with_steps`), which no file names.
        slots: runs at the same time; 0: as many as the GPUs or the cores hold, else two.
        threads: threads a run.
        gpus: GPUs of its own that a run gets, at least its `trainer.devices`; None: those, where
            the machine has GPUs; 0: none is given out, and all runs see all.
        cores: cores that a run is bound to; 0: not bound.
        executor: `name` (local | ray | submitit) of the engine that trains, and its settings.
        path: the file, None when it was made in memory.
        command: what runs it, where that is not `qk sweep NAME`.
    """

    name: str
    preset: str
    overrides: tuple[str, ...] = ()
    axes: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    zipped: tuple[tuple[str, ...], ...] = ()
    listed: tuple[Row, ...] = ()
    controls: tuple[Row, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)
    baseline: dict[str, Any] | str = field(default_factory=dict)
    metrics: dict[str, str] = field(default_factory=lambda: {"val/loss": "min"})
    budget: Budget | None = None
    search: Search | None = None
    space: Space = field(default_factory=dict)
    steps: dict[str, tuple[str, ...]] = field(default_factory=dict)
    slots: int = 0
    threads: int = 1
    gpus: int | None = None
    cores: int = 0
    executor: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None
    command: str = ""

    def grid(self) -> list[Row]:
        """Return the rows of the grid, the first axis slowest; or the rows that are listed."""
        if self.listed or self.search:
            return [self._spending(row) for row in self.listed]
        several = [_merge(values) for values in itertools.product(*self._groups())]
        rows = [make_row(values) for values in several]
        if len({row.name for row in rows}) < len(rows):  # `mlp` and `{name: mlp}`
            rows = [make_row(values, _label_exactly) for values in several]
        return [self._spending(row) for row in rows]

    def rows(self) -> list[Row]:
        """Return the rows of the grid or the list, then the controls."""
        return [*self.grid(), *(self._spending(row) for row in self.controls)]

    def baseline_of(self, row: Row) -> Row | None:
        """Return the grid row that a row is compared with, None where there is none.

        A control that sets every axis is compared with the grid row of the same values, so that
        the two differ in the control's other overrides alone.

        Args:
            row: a row of the grid or a control.
        """
        if not self.baseline:
            return None
        if isinstance(self.baseline, str):
            return next((item for item in self.grid() if item.name == self.baseline), None)
        wanted = [row.values] if row.control else []
        for values in [*wanted, {**row.values, **self.baseline}]:
            found = next((item for item in self.grid() if item.values == values), None)
            if found is not None:
                return found
        return None

    def along(self, axis: str) -> tuple[str, ...]:
        """Return the axes that advance with an axis, itself among them.

        Args:
            axis: the axis.
        """
        return next((group for group in self.zipped if axis in group), (axis,))

    def describe_baseline(self) -> str:
        """Write the baseline for people, "" where there is none."""
        if isinstance(self.baseline, str):
            return f"`{self.baseline}`" if self.baseline else ""
        return ", ".join(f"`{key}={format_value(value)}`" for key, value in self.baseline.items())

    def _groups(self) -> list[list[dict[str, Any]]]:
        """Return, for each axis or zipped group, the values that it sets one after the other."""
        groups = []
        for key in self.axes:
            along = self.along(key)
            if key == next(axis for axis in self.axes if axis in along):
                columns = zip(*(self.axes[axis] for axis in along), strict=True)
                groups.append([dict(zip(along, values, strict=True)) for values in columns])
        return groups

    def _spending(self, row: Row) -> Row:
        steps = self.steps.get(row.name, ())
        return replace(row, overrides=(*row.overrides, *steps)) if steps else row


def name_of(path: Path) -> str:
    """Return the name of a sweep whose file gives none.

    Args:
        path: the file, or the copy of it in the sweep's own folder.
    """
    is_copy = path.name == SWEEP_COPY and path.parent.parent == sweeps_root().resolve()
    return path.parent.name if is_copy else path.stem


def is_row_name(value: Any) -> bool:
    """Tell whether a row can have this name.

    Args:
        value: what stands in the file.
    """
    is_line = isinstance(value, str) and value.isprintable()
    return is_line and 0 < len(value.strip()) <= ROW_LETTERS


def _merge(parts: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    return {key: value for part in parts for key, value in part.items()}


def last_word(key: str) -> str:
    """Return what an option is called for short: `num_queries`; `connector` for `connector.name`.

    Args:
        key: its dotted key.
    """
    return key.removesuffix(".name").rpartition(".")[2]


def _short_names(axes: dict[str, Any]) -> dict[str, str]:
    """Name axes by the last word of their keys, or by all where two end alike."""
    last = [last_word(key) for key in axes]
    return {key: key if last.count(word) > 1 else word
            for key, word in zip(axes, last, strict=True)}  # fmt: skip


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


def make_row(values: dict[str, Any], label: Callable[[str, Any], str] = label_value) -> Row:
    """Make a row of values.

    Args:
        values: value by axis.
        label: writes the name of an axis and its value for people.
    """
    names = _short_names(values)
    shown = [label(names[key], value) for key, value in values.items()]
    overrides = tuple(f"{key}={format_value(value)}" for key, value in values.items())
    return Row(", ".join(shown) or "all", values, False, overrides)


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
