"""Reading a sweep file: YAML through OmegaConf, every problem in it reported at once."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from qk_lightning.config.chain import plan_chain
from qk_lightning.config.errors import ConfigError, Problem, did_you_mean
from qk_lightning.config.layers import read_layer
from qk_lightning.config.paths import find_preset, preset_roots
from qk_lightning.sweeps.axes import as_groups, read_baseline, read_zip
from qk_lightning.sweeps.budget_rule import read_budget
from qk_lightning.sweeps.file import ROW_NAME, Row, SweepFile, format_value, is_row_name, name_of
from qk_lightning.sweeps.logged import name_problems
from qk_lightning.sweeps.room import executor_problems
from qk_lightning.sweeps.space import read_first, read_search, read_space

GOALS = ("min", "max")
MAX_NAME = 200
ROWS = "write `rows: [{name: both, overrides: [all.system.context=both]}]`"
IN_THE_FILE = {"zipped": "zip", "listed": "rows"}  # fields that a file has by another name
NOT_IN_THE_FILE = ("path", "command", "space", "steps")
NOT_BESIDE_A_SEARCH = ("zip", "rows", "controls", "budget")


def load_sweep(sweep: str | Path) -> SweepFile:
    """Read and check a sweep file.

    Args:
        sweep: a path, or a name such as `sweeps/num_queries` (found like a preset).

    Returns:
        The sweep.

    Raises:
        ConfigError: with everything that is wrong in the file.
    """
    path = find_preset(sweep)
    layer = read_layer(path)
    if "preset" not in layer.values and {"system", "defaults"} & set(layer.values):
        name = _preset_name(path)
        raise ConfigError(Problem("sweep", name, "a sweep (this is a preset)", f"qk fit {name}"))
    try:
        values = OmegaConf.to_container(OmegaConf.create(layer.values), resolve=True)
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        fix = "refer to a key of this file that exists"
        raise ConfigError(Problem(path.name, None, f"YAML ({reason})", fix)) from error
    assert isinstance(values, dict)
    values.setdefault("name", name_of(path))
    return parse_sweep({str(key): value for key, value in values.items()}, path)


def _preset_name(path: Path) -> str:
    for root in preset_roots():
        if path.is_relative_to(root):
            return path.relative_to(root).with_suffix("").as_posix()
    return str(path)


def parse_sweep(values: Mapping[str, Any], path: Path | None = None) -> SweepFile:
    """Check a sweep given as plain values.

    Args:
        values: the keys of a sweep file.
        path: where they came from.

    Returns:
        The sweep.

    Raises:
        ConfigError: with everything that is wrong.
    """
    return _Checker(path).check(values)


class _Checker:
    """Gathers problems while it walks a sweep file."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.problems: list[Problem] = []

    def check(self, values: Mapping[str, Any]) -> SweepFile:
        """Return the sweep, or raise a ConfigError with everything that is wrong."""
        known = [IN_THE_FILE.get(item.name, item.name) for item in fields(SweepFile)
                 if item.name not in NOT_IN_THE_FILE]  # fmt: skip
        for key in values:
            if key not in known:
                self._add(key, values[key], "a key of a sweep file", did_you_mean(key, known))
        for key in ("name", "preset"):
            if not isinstance(values.get(key), str) or not values[key]:
                self._add(key, values.get(key), "a text", f"write `{key}: ...`")
        name = values.get("name")
        if isinstance(name, str) and name and not re.fullmatch(r"\w[\w.-]*", name):
            plain = re.sub(r"[^\w.-]+", "_", name).strip("._-") or "mine"
            expected = "letters, digits, . _ - (a folder has this name)"
            self._add("name", name, expected, f"write `name: {plain}`")
        elif isinstance(name, str) and len(name.encode()) > MAX_NAME:
            expected = f"at most {MAX_NAME} bytes (a folder has this name)"
            self._add("name", name, expected, "shorten it")
        given: dict[str, Any] = {
            "overrides": tuple(self._overrides("overrides", values.get("overrides"))),
            **(self._rows(values) if "search" not in values else {}),
        }
        for key, check in (("seeds", self._seeds), ("metrics", self._metrics)):
            if key in values:
                given[key] = check(values[key])
        for key, least in {"slots": 1, "threads": 1, "gpus": 0, "cores": 1}.items():
            if key in values:
                given[key] = self._count(key, values[key], least)
        given.setdefault("threads", given.get("cores", 1))
        if "executor" in values:
            given["executor"] = values["executor"]
            self.problems += executor_problems(values["executor"])
        if "search" in values:
            given |= self._search(values, given.get("metrics", {"val/loss": "min"}))
        if self.problems:
            found = [*self.problems, *_of_the_members(values.get("preset"), given)]
            raise ConfigError(list({str(problem): problem for problem in found}.values()))
        return SweepFile(values["name"], values["preset"], path=self.path, **given)

    def _rows(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Read what the rows are made of."""
        axes = self._axes(values.get("axes"), values.get("zip"))
        given: dict[str, Any] = {
            "axes": axes,
            "zipped": read_zip(values.get("zip"), axes, self._add),
            "listed": tuple(self._listed(values.get("rows"), axes)),
        }
        grid = SweepFile("", "", **given)
        given["controls"] = tuple(self._controls(values.get("controls"), grid))
        given["baseline"] = read_baseline(values.get("baseline"), grid, self._add)
        if "budget" in values:
            given["budget"] = read_budget(values["budget"], self._add)
        return given

    def _search(self, values: Mapping[str, Any], metrics: Mapping[str, str]) -> dict[str, Any]:
        """Read what a search chooses from, and how."""
        for key in NOT_BESIDE_A_SEARCH:
            if key in values:
                self._add(key, values[key], "nothing beside `search`", "take one of the two out")
        axes = self._mapping("axes", values.get("axes"), "write `axes: {key: [1, 2]}`")
        space = read_space(axes, self._add)
        baseline = read_first(values.get("baseline"), space, self._add)
        search = read_search(values["search"], metrics, self._add)
        return {"search": search, "space": space, "baseline": baseline}

    def _add(self, key: str, value: Any, expected: str, fix: str) -> None:
        origin = self.path.name if self.path else ""
        self.problems.append(Problem(key, value, expected, fix, origin))

    def _mapping(self, key: str, node: Any, fix: str) -> dict[str, Any]:
        if node is None:
            return {}
        if not isinstance(node, dict):
            self._add(key, node, "a mapping", fix)
            return {}
        return {str(name): value for name, value in node.items()}

    def _overrides(self, key: str, node: Any) -> list[str]:
        texts = [] if node is None else node
        if not isinstance(texts, list) or not all(isinstance(t, str) and "=" in t for t in texts):
            self._add(key, node, "a list of key=value", f"write `{key}: [all.max_steps=20]`")
            return []
        return texts

    def _axes(self, node: Any, zipped: Any) -> dict[str, tuple[Any, ...]]:
        axes = {}
        for key, options in self._mapping("axes", node, "write `axes: {key: [1, 2]}`").items():
            name = f"axes.{key}"
            if not isinstance(options, list) or not options:
                is_range = isinstance(options, dict) and "low" in options
                fix = "add `search: {trials: 20}` for ranges" if is_range else ""
                self._add(name, options, "a list of values", fix or f"write `{key}: [1, 2]`")
            elif _has_doubles(options) and not any(key in group for group in as_groups(zipped)):
                self._add(name, options, "each value once", "take the double out")
            elif key.rpartition(".")[2] == "seed" and key.count(".") < 2:
                fix = f"write `seeds: {options}` in its place"
                self._add(name, options, "an option; seeds have a key of their own", fix)
            else:
                axes[key] = tuple(options)
        return axes

    def _listed(self, node: Any, axes: Mapping[str, Any]) -> list[Row]:
        if node is None:
            return []
        if axes:
            fix = "take one of the two out, or make the rows controls, which stand beside a grid"
            self._add("rows", None, "rows or axes", fix)
        rows = self._named_rows("rows", node, {}, control=False)
        if not rows:
            self._add("rows", node, "a list of one or more", ROWS)
        return rows

    def _controls(self, node: Any, grid: SweepFile) -> list[Row]:
        rows = self._named_rows("controls", [] if node is None else node, grid.axes, control=True)
        taken = {row.name for row in grid.grid()}.intersection(row.name for row in rows)
        for name in sorted(taken):
            self._add("controls", name, "a name that no row of the grid has", "rename the control")
        return rows

    def _named_rows(
        self, where: str, entries: Any, axes: Mapping[str, Any], control: bool
    ) -> list[Row]:
        """Read rows that have a name and overrides."""
        rows: list[Row] = []
        fix = ROWS.replace("rows", where, 1)
        if not isinstance(entries, list):
            self._add(where, entries, "a list", fix)
            return []
        for index, entry in enumerate(entries):
            key = f"{where}[{index}]"
            if not isinstance(entry, dict) or not is_row_name(entry.get("name")):
                self._add(key, entry, f"a name, {ROW_NAME}, and overrides", fix)
                continue
            for name in set(entry) - {"name", "overrides"}:
                self._add(f"{key}.{name}", entry[name], "name or overrides", fix)
            overrides = tuple(self._overrides(f"{key}.overrides", entry.get("overrides")))
            rows.append(Row(entry["name"], _axis_values(overrides, axes), control, overrides))
        names = [row.name for row in rows]
        if len(set(names)) < len(names):
            self._add(where, names, "each name once", "rename one of them")
        return rows

    def _seeds(self, node: Any) -> tuple[int, ...]:
        whole = isinstance(node, list) and all(type(seed) is int for seed in node)
        if not whole or not node or len(set(node)) < len(node):
            fix = "write `seeds: [0, 1, 2]`"
            self._add("seeds", node, "a list of different whole numbers", fix)
            return ()
        return tuple(node)

    def _metrics(self, node: Any) -> dict[str, str]:
        metrics = self._mapping("metrics", node, "write `metrics: {val/loss: min}`")
        for key, goal in metrics.items():
            if goal not in GOALS:
                self._add(f"metrics.{key}", goal, "min or max", "say which end is better")
            for problem in name_problems(key, goal):
                self._add(problem.key, goal, problem.expected, problem.fix)
        return metrics

    def _count(self, key: str, value: Any, least: int) -> int:
        if type(value) is not int or value < least:
            self._add(key, value, f"a whole number of {least} or more", f"write `{key}: 1`")
            return 1
        return value


def _of_the_members(preset: Any, given: Mapping[str, Any]) -> Iterator[Problem]:
    """What is wrong with the preset, the axes and the overrides of a file that is refused anyway.

    Each axis is tried with each of its values, and each control, while the rest is as the preset
    has it; a file that is right so far is composed whole by the plan.
    """
    if not isinstance(preset, str) or not preset:
        return
    tried = [[f"{key}={format_value(value)}"]
             for key, values in given.get("axes", {}).items() for value in values]  # fmt: skip
    named = [*given.get("listed", ()), *given.get("controls", ())]
    for texts in [*tried, *([*row.overrides] for row in named)] or [[]]:
        try:
            plan_chain(preset, [*given["overrides"], *texts])
        except ConfigError as error:
            yield from error.problems


def _has_doubles(options: list[Any]) -> bool:
    return len({format_value(option) for option in options}) < len(options)


def _axis_values(overrides: tuple[str, ...], axes: Mapping[str, Any]) -> dict[str, Any]:
    """Return what overrides set on the axes, so that a control has a place in the plot."""
    parsed = {}
    for text in overrides:
        key, _, raw = text.partition("=")
        if key in axes:
            parsed[key] = OmegaConf.select(OmegaConf.from_dotlist([f"value={raw}"]), "value")
    return parsed
