"""How axes of a sweep file hang together: which advance together, which row is the baseline.

Not here: reading the axes themselves (reader.py) and making rows of them (file.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from qk_lightning.config.errors import did_you_mean
from qk_lightning.sweeps.file import SweepFile, format_value

Add = Callable[[str, Any, str, str], None]
EXAMPLE = "write `zip: [connector.num_layers, connector.width]`, two axes or more of one length"


def as_groups(node: Any) -> list[list[Any]]:
    """Return `zip:` of a sweep file as groups; one group alone needs no list around it.

    Args:
        node: what stands there, right or wrong.
    """
    if not isinstance(node, list):
        return []
    is_one = any(not isinstance(item, list) for item in node)
    return [node] if is_one else [*node]


def read_zip(
    node: Any, axes: Mapping[str, tuple[Any, ...]], add: Add
) -> tuple[tuple[str, ...], ...]:
    """Read and check the axes that advance together.

    Args:
        node: what stands at `zip:`, a list of axes or a list of such lists.
        axes: values by axis.
        add: takes a problem: key, value, what is expected, and the fix.

    Returns:
        The groups that are right.
    """
    if node is None:
        return ()
    groups = as_groups(node)
    if not groups:
        add("zip", node, "a list of axes", EXAMPLE)
    found: list[tuple[str, ...]] = []
    for group in groups:
        unknown = [key for key in group if not isinstance(key, str) or key not in axes]
        for key in unknown:
            add("zip", key, "one of the axes", did_you_mean(str(key), axes))
        if unknown:
            continue
        names = tuple(group)
        taken = [key for key in names if [*names, *sum(found, ())].count(key) > 1]
        lengths = {key: len(axes[key]) for key in names}
        if taken:
            add("zip", taken[0], "each axis once", "take one of the two out")
        elif len(names) < 2 or len(set(lengths.values())) > 1:
            add("zip", lengths, "axes with the same number of values", EXAMPLE)
        elif len(values := _columns(axes, names)) > len(set(values)):
            add("zip", list(names), "each combination of values once", "take the double out")
        else:
            found.append(names)
    return tuple(found)


def _columns(axes: Mapping[str, tuple[Any, ...]], names: tuple[str, ...]) -> list[tuple[str, ...]]:
    columns = zip(*(axes[key] for key in names), strict=True)
    return [tuple(format_value(value) for value in values) for values in columns]


def read_baseline(node: Any, grid: SweepFile, add: Add) -> dict[str, Any] | str:
    """Read and check the row that others are compared with.

    Args:
        node: what stands at `baseline:`, values by axis, or the name of a listed row.
        grid: the sweep's axes or listed rows, without its controls.
        add: takes a problem: key, value, what is expected, and the fix.

    Returns:
        The baseline; of zipped axes it has all values once one of them says which.
    """
    if node is None:
        return {}
    if grid.listed:
        return _listed_baseline(node, grid, add)
    if not isinstance(node, dict):
        add("baseline", node, "a mapping", "write `baseline: {key: 1}`")
        return {}
    baseline = {str(key): value for key, value in node.items()}
    before = dict(baseline)
    for key, value in before.items():
        if key not in grid.axes:
            add(f"baseline.{key}", value, "one of the axes", did_you_mean(key, grid.axes))
        elif value not in grid.axes[key]:
            add(f"baseline.{key}", value, f"one of {list(grid.axes[key])}", "choose one")
        else:
            _complete(baseline, key, grid, add)
    return baseline


def _listed_baseline(node: Any, grid: SweepFile, add: Add) -> str:
    names = [row.name for row in grid.listed]
    if node not in names:
        add("baseline", node, "the name of one of the rows", did_you_mean(str(node), names))
        return ""
    return str(node)


def _complete(baseline: dict[str, Any], key: str, grid: SweepFile, add: Add) -> None:
    """Add the values of the axes that advance with one, which a grid row must agree with."""
    along = grid.along(key)
    given = {axis: value for axis, value in baseline.items() if axis in along}
    values = [{axis: row.values[axis] for axis in along} for row in grid.grid()]
    values = [one for one in values if all(one[axis] == value for axis, value in given.items())]
    if not values:
        add(f"baseline.{key}", baseline[key], f"values that advance together ({', '.join(along)})",
            "choose those of one row")  # fmt: skip
    elif any(one != values[0] for one in values):
        fix = f"say which: name {' and '.join(axis for axis in along if axis not in given)} too"
        add(f"baseline.{key}", baseline[key], "the values of one row", fix)
    else:
        baseline.update(values[0])
