"""What a search may choose from, and how it chooses, as a sweep file has it. No Optuna here.

A trial's values become a row: `trials.py` keeps what came of them, `study.py` asks Optuna.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from qk_lightning.config.errors import did_you_mean

Add = Callable[[str, Any, str, str], None]
SAMPLERS = ("tpe", "random")
PRUNERS = ("none", "median")
DIGITS = 4  # of a value that was drawn from a range of real numbers
RANGE = "write `{low: 1e-4, high: 1e-2, log: true}`"
EXAMPLE = "write `search: {trials: 20, metric: val/loss}`"


@dataclass(frozen=True)
class Range:
    """Numbers between two ends; whole ones where both ends are.

    Args:
        low: the smallest.
        high: the largest.
        log: draw them evenly on a logarithmic scale.
        step: distance of neighbours, None for 1 or for any; not beside `log`.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None

    @property
    def is_whole(self) -> bool:
        """Whether the numbers are integers."""
        return all(isinstance(end, int) for end in (self.low, self.high, self.step or 1))

    def rounded(self, value: float) -> int | float:
        """Return a value as a row has it: few digits, so that it can be read and met again.

        Args:
            value: as it was drawn.
        """
        if self.is_whole:
            return int(value)
        return min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high)

    def to_values(self) -> dict[str, Any]:
        """Return what a sweep file would say."""
        ends = {"low": self.low, "high": self.high}
        return {
            **ends,
            **({"log": True} if self.log else {}),
            **({"step": self.step} if self.step else {}),
        }


Choices = tuple[Any, ...]
Space = dict[str, Range | Choices]


@dataclass(frozen=True)
class Search:
    """How a search goes.

    Args:
        trials: how many rows are tried in all.
        metric: what is made better, one of the sweep's metrics.
        sampler: `tpe` learns from what came out, `random` does not.
        pruner: `median` ends a trial whose validation loss is worse than the median of the
            earlier ones at the same step; `none`.
        startup: trials before the sampler learns and the pruner ends anything.
        seed: of the choices.
    """

    trials: int
    metric: str
    sampler: str = "tpe"
    pruner: str = "none"
    startup: int = 5
    seed: int = 0


def read_search(node: Any, metrics: Mapping[str, str], add: Add) -> Search | None:
    """Read and check `search:` of a sweep file.

    Args:
        node: what stands there.
        metrics: the sweep's metrics.
        add: takes a problem: key, value, what is expected, and the fix.

    Returns:
        The search, None where something is wrong.
    """
    if not isinstance(node, dict):
        add("search", node, "a mapping", EXAMPLE)
        return None
    known = [item.name for item in fields(Search)]
    given = {"metric": next(iter(metrics), ""), **{str(key): node[key] for key in node}}
    wrong = [key for key in given if key not in known]
    for key in wrong:
        add(f"search.{key}", given[key], f"one of {', '.join(known)}", did_you_mean(key, known))
    for key, least in (("trials", 1), ("startup", 0), ("seed", 0)):
        value = given.get(key, 0 if key != "trials" else None)
        if type(value) is not int or value < least:
            add(f"search.{key}", value, f"a whole number of {least} or more", EXAMPLE)
            wrong.append(key)
    choices = {"sampler": SAMPLERS, "pruner": PRUNERS, "metric": tuple(metrics)}
    for key, allowed in choices.items():
        if key in given and given[key] not in allowed:
            fix = did_you_mean(str(given[key]), allowed)
            add(f"search.{key}", given[key], f"one of {', '.join(allowed)}", fix)
            wrong.append(key)
    if not wrong and given.get("pruner", "none") != "none" and given["metric"] != "val/loss":
        expected = "val/loss: a pruner sees nothing else before a run's end"
        add("search.metric", given["metric"], expected, "or set `pruner: none`")
        wrong.append("pruner")
    return None if wrong else Search(**given)


def read_space(axes: Mapping[str, Any], add: Add) -> Space:
    """Read and check what a search may choose from.

    Args:
        axes: `axes:` of the sweep file: a range or a list of choices by key.
        add: takes a problem: key, value, what is expected, and the fix.
    """
    space: Space = {}
    for key, node in axes.items():
        if isinstance(node, dict):
            found = _range(f"axes.{key}", node, add)
            if found is not None:
                space[key] = found
        elif isinstance(node, list) and node:
            space[key] = tuple(node)
        else:
            add(f"axes.{key}", node, "a range or a list of choices", RANGE)
    if not axes:
        add("axes", None, "what a search may choose from", "write `axes: {optimizer.lr: {...}}`")
    return space


def _range(key: str, node: Mapping[str, Any], add: Add) -> Range | None:
    known = [item.name for item in fields(Range)]
    for name in node:
        if name not in known:
            add(f"{key}.{name}", node[name], f"one of {', '.join(known)}", RANGE)
            return None
    low, high, step = node.get("low"), node.get("high"), node.get("step")
    for name, value in (("low", low), ("high", high), ("step", 1 if step is None else step)):
        number = float(value) if isinstance(value, int | float) and value is not True else math.nan
        if not math.isfinite(number):
            add(f"{key}.{name}", value, "a number", RANGE)
            return None
    assert low is not None and high is not None
    log = node.get("log", False)
    if not low < high:
        add(key, dict(node), "a low end below the high one", RANGE)
    elif not isinstance(log, bool) or (log and (low <= 0 or step is not None)):
        add(f"{key}.log", log, "true or false; true above 0 and without a step", RANGE)
    elif step is not None and not 0 < step <= high - low:
        add(f"{key}.step", step, "a step above 0 that fits into the range", RANGE)
    else:
        return Range(low, high, log, step)
    return None


def read_first(node: Any, space: Space, add: Add) -> dict[str, Any]:
    """Read and check the baseline of a search, which is its first trial.

    Args:
        node: what stands at `baseline:`, a value for every axis; None for no baseline.
        space: what the search chooses from.
        add: takes a problem: key, value, what is expected, and the fix.
    """
    if node is None:
        return {}
    if not isinstance(node, dict) or set(node) != set(space):
        add("baseline", node, "a value for every axis, or no baseline", f"name {list(space)}")
        return {}
    for key, of in space.items():
        value = node[key]
        if isinstance(of, Range):
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not is_number or not of.low <= value <= of.high:
                add(f"baseline.{key}", value, f"a number from {of.low} to {of.high}", "choose one")
        elif value not in of:
            add(f"baseline.{key}", value, f"one of {list(of)}", "choose one")
    return {key: node[key] for key in space}


def corners(space: Space) -> list[dict[str, Any]]:
    """Return rows that show every choice and both ends of every range, one at a time.

    Args:
        space: what a search may choose from.
    """
    ends = {key: (of.low, of.high) if isinstance(of, Range) else of for key, of in space.items()}
    first = {key: values[0] for key, values in ends.items()}
    others = [{**first, key: value} for key, values in ends.items() for value in values[1:]]
    return [first, *others]
