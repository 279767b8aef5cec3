"""Reading a claim's file: YAML through OmegaConf, every problem in it reported at once."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from qk_lightning.claims.file import KINDS, Claim, Comparison, Source
from qk_lightning.config.errors import ConfigError, Problem, did_you_mean
from qk_lightning.config.layers import read_layer
from qk_lightning.config.paths import find_preset, list_presets
from qk_lightning.sweeps.file import SweepFile
from qk_lightning.sweeps.reader import load_sweep, parse_sweep
from qk_lightning.sweeps.statistics import MIN_SEEDS

FOLDER = "claims"
KEYS = ("claim", "source", "published", "arms", "sweep", "stage", "expect", "note")
EXPECT_KEYS = ("arm", "metric", "by", *KINDS)
EXAMPLE = "write `expect: [{arm: learnable, better_than: random, metric: val/loss}]`"


def list_claims() -> list[str]:
    """Return the names of the claims in `experiments/claims/`, of the project and the package."""
    found = [name for name in list_presets() if name.startswith(f"{FOLDER}/")]
    return [name.removeprefix(f"{FOLDER}/") for name in found]


def load_claims(names: Sequence[str] = ()) -> list[Claim]:
    """Read claims.

    Args:
        names: names under `experiments/claims/`, or files; none = all.

    Returns:
        The claims.

    Raises:
        ConfigError: with everything that is wrong in any of them.
    """
    claims, problems = [], []
    for name in names or list_claims():
        try:
            claims.append(load_claim(name))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return claims


def load_claim(name: str) -> Claim:
    """Read and check one claim.

    Args:
        name: its name under `experiments/claims/`, or a file.

    Raises:
        ConfigError: there is no such claim, or everything that is wrong in it.
    """
    path = _find(name)
    values: Any = read_layer(path).values
    try:
        if "${" in repr(values):
            values = OmegaConf.to_container(OmegaConf.create(values), resolve=True)
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        fix = "refer to a key of this file that exists"
        raise ConfigError(Problem(path.name, None, f"YAML ({reason})", fix)) from error
    return parse_claim(path.stem, {str(key): value for key, value in values.items()}, path)


def _find(name: str) -> Path:
    known = list_claims()
    if name.removeprefix(f"{FOLDER}/") in known:
        return find_preset(f"{FOLDER}/{name.removeprefix(f'{FOLDER}/')}")
    if name.endswith((".yaml", ".yml")):
        return find_preset(name)
    raise ConfigError(Problem("claim", name, "a claim", did_you_mean(name, known)))


def parse_claim(name: str, values: Mapping[str, Any], path: Path | None = None) -> Claim:
    """Check a claim given as plain values.

    Args:
        name: what it is called.
        values: the keys of a claim's file.
        path: where they came from.

    Raises:
        ConfigError: with everything that is wrong.
    """
    return _Checker(name, path).check(values)


class _Checker:
    """Gathers problems while it walks a claim's file."""

    def __init__(self, name: str, path: Path | None) -> None:
        self.name, self.path = name, path
        self.problems: list[Problem] = []

    def check(self, values: Mapping[str, Any]) -> Claim:
        """Return the claim, or raise a ConfigError with everything that is wrong."""
        for key in values:
            if key not in KEYS:
                self._add(key, values[key], "a key of a claim's file", did_you_mean(key, KEYS))
        text = self._text("claim", values.get("claim"), "say it in a sentence")
        stage = self._text("stage", values.get("stage"), "for example `stage: stage1`")
        note = values.get("note", "")
        if not isinstance(note, str):
            self._add("note", note, "a text", "write `note: ...`")
        source = self._source(values.get("source"))
        published = self._published(values.get("published"))
        sweep = self._sweep(values.get("sweep"))
        arms = self._arms(values.get("arms"), sweep)
        expect = self._expect(values.get("expect"), arms, sweep)
        if self.problems or sweep is None:
            raise ConfigError(self.problems)
        return Claim(
            self.name, text, source, published, arms, sweep, stage, expect, str(note).strip(),
            self.path,
        )  # fmt: skip

    def _add(self, key: str, value: Any, expected: str, fix: str) -> None:
        origin = self.path.name if self.path else self.name
        self.problems.append(Problem(key, value, expected, fix, origin))

    def _text(self, key: str, value: Any, fix: str) -> str:
        if not isinstance(value, str) or not value.strip():
            self._add(key, value, "a text", fix)
            return ""
        return " ".join(value.split())

    def _source(self, node: Any) -> Source:
        fix = 'write `source: {paper: "MetaQuery, arXiv 2504.06256", where: Table 1}`'
        if not isinstance(node, dict):
            self._add("source", node, "paper and where", fix)
            return Source("", "")
        for key in node:
            if key not in ("paper", "where"):
                known = ("paper", "where")
                self._add(f"source.{key}", node[key], "paper or where", did_you_mean(key, known))
        texts = [self._text(f"source.{key}", node.get(key), fix) for key in ("paper", "where")]
        return Source(*texts)

    def _published(self, node: Any) -> dict[str, dict[str, float]]:
        fix = "write `published: {learnable: {GenEval: 0.56}}`, or `published: {}`"
        if not isinstance(node, dict):
            self._add("published", node, "numbers by metric, by arm", fix)
            return {}
        found: dict[str, dict[str, float]] = {}
        for arm, numbers in node.items():
            if not isinstance(numbers, dict) or not numbers:
                self._add(f"published.{arm}", numbers, "numbers by metric", fix)
                continue
            for metric, value in numbers.items():
                if not _is_number(value):
                    self._add(f"published.{arm}.{metric}", value, "a number", fix)
            found[str(arm)] = {str(metric): value for metric, value in numbers.items()}
        return found

    def _sweep(self, node: Any) -> SweepFile | None:
        own = f"claim-{self.name}"
        if not isinstance(node, str | dict):
            fix = "name a file such as `sweep: num_queries`, or write `sweep: {preset: ...}`"
            self._add("sweep", node, "a sweep", fix)
            return None
        if isinstance(node, dict) and "name" in node:
            fix = "take it out: it is called after the claim"
            self._add("sweep.name", node["name"], "no name of its own", fix)
        try:
            if isinstance(node, str):
                sweep = replace(load_sweep(_sweep_name(node)), name=own, path=None)
            else:
                sweep = parse_sweep(node | {"name": own})
        except ConfigError as error:
            for problem in error.problems:
                key = "sweep" if isinstance(node, str) else f"sweep.{problem.key}"
                self._add(key, problem.value, problem.expected, problem.fix)
            return None
        sweep = replace(sweep, command=f"qk claims {shlex.quote(self._called())} --run")
        if sweep.budget is not None:
            fix = "give the arms their steps by overrides"
            self._add("sweep.budget", sweep.budget.to_values(), "no budget in a claim", fix)
        if sweep.search is not None:
            fix = "list the arms in `axes:`, `rows:` or `controls:`"
            self._add("sweep.search", None, "no search in a claim", fix)
        if len(sweep.seeds) < MIN_SEEDS:
            expected = f"{MIN_SEEDS} seeds or more, for an interval over them"
            self._add("sweep.seeds", list(sweep.seeds), expected, "write `seeds: [0, 1, 2]`")
        return sweep

    def _called(self) -> str:
        """Return what a command line calls it: a claim of a folder of its own by its file."""
        return self.name if self.path is None or self.name in list_claims() else str(self.path)

    def _arms(self, node: Any, sweep: SweepFile | None) -> dict[str, str]:
        fix = "write `arms: {learnable: queries=learnable, random: queries=random}`"
        if not isinstance(node, dict) or not node:
            self._add("arms", node, "the sweep's row by label", fix)
            return {}
        rows = [row.name for row in sweep.rows()] if sweep else []
        for label, row in node.items():
            if sweep and row not in rows:
                self._add(f"arms.{label}", row, "a row of the sweep", did_you_mean(str(row), rows))
        twice = [row for row in node.values() if list(node.values()).count(row) > 1]
        if twice:
            self._add("arms", twice[0], "each row once", "take one of its labels out")
        return {str(label): str(row) for label, row in node.items()}

    def _expect(
        self, node: Any, arms: Mapping[str, str], sweep: SweepFile | None
    ) -> tuple[Comparison, ...]:
        if not isinstance(node, list) or not node:
            self._add("expect", node, "a list of comparisons", EXAMPLE)
            return ()
        found = [self._comparison(f"expect[{n}]", one, arms, sweep) for n, one in enumerate(node)]
        kept = [one for one in found if one is not None]
        if len(set(kept)) < len(kept):
            fix = "take one of them out: each counts in Holm's correction"
            self._add("expect", [str(one) for one in kept], "each comparison once", fix)
        used = {label for one in kept for label in (one.arm, one.other)}
        if len(kept) == len(node):
            for label in arms:
                if label not in used:
                    fix = "compare it, or take it out of `arms`"
                    self._add(f"arms.{label}", arms[label], "an arm that is compared", fix)
        return tuple(kept)

    def _comparison(
        self, key: str, node: Any, arms: Mapping[str, str], sweep: SweepFile | None
    ) -> Comparison | None:
        if not isinstance(node, dict):
            self._add(key, node, "arm, metric and what is expected", EXAMPLE)
            return None
        before = len(self.problems)
        for name in node:
            if name not in EXPECT_KEYS:
                fix = did_you_mean(name, EXPECT_KEYS)
                self._add(f"{key}.{name}", node[name], f"one of {', '.join(EXPECT_KEYS)}", fix)
        kinds = [kind for kind in KINDS if kind in node]
        if len(kinds) != 1:
            self._add(key, kinds or None, f"one of {', '.join(KINDS)}", EXAMPLE)
        for name in ("arm", *(kind for kind in kinds if kind != "above")):
            if str(node.get(name)) not in arms:
                fix = did_you_mean(str(node.get(name)), arms)
                self._add(f"{key}.{name}", node.get(name), "one of the arms", fix)
        metric = str(node.get("metric"))
        if sweep and metric not in sweep.metrics:
            fix = did_you_mean(metric, sweep.metrics)
            self._add(f"{key}.metric", node.get("metric"), "one of the sweep's metrics", fix)
        by, value = node.get("by", 0.0), node.get("above", 0.0)
        if not _is_number(by) or by < 0:
            self._add(f"{key}.by", by, "a number of 0 or more", "write `by: 0.05`")
        if ("by" in node) != ("no_worse_than" in node):
            fix = "write `no_worse_than: ARM, by: 0.05`, in units of the metric"
            self._add(
                f"{key}.by", node.get("by"), "a margin with no_worse_than, and there only", fix
            )
        if not _is_number(value):
            self._add(f"{key}.above", value, "a number", "write `above: 0`")
        if len(self.problems) > before or sweep is None:
            return None
        (kind,) = kinds
        other = "" if kind == "above" else str(node[kind])
        if other == str(node["arm"]):
            self._add(f"{key}.{kind}", other, "another arm", "compare it with another one")
            return None
        goal = sweep.metrics[metric]
        return Comparison(str(node["arm"]), kind, other, metric, goal, float(by), float(value))  # type: ignore[arg-type]


def _sweep_name(text: str) -> str:
    names = (text, f"sweeps/{text}")
    return next((name for name in names if name in list_presets()), text)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
