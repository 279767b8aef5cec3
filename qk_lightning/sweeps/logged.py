"""Which metrics the runs of a sweep can log: one that no stage logs is refused beforehand.

Known without importing anything: losses need validation samples, a suite needs pictures and a
world that it knows. Of systems and worlds of somebody's own nothing is said.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

from omegaconf import DictConfig

from qk_lightning.config.chain import StagePlan
from qk_lightning.config.errors import Problem, did_you_mean
from qk_lightning.config.paths import list_suites
from qk_lightning.sweeps.file import SweepFile

SUITES = Path(__file__).parents[1] / "evaluation" / "suites"
UNDERSTANDING = "understanding"  # scored beside the suites, see evaluation/understanding.py
LOSSES = ("train/loss", "val/loss")  # a system of your own may log others
DRAWS = "query_kontext"
SLIP = 0.88  # how alike two names are, of 1
VALIDATION = "validation.num_samples is 0"


def name_problems(metric: str, goal: object) -> list[Problem]:
    """Say what is wrong with a metric whatever the runs are: its name.

    Args:
        metric: as a sweep file has it.
        goal: the end that is better.
    """
    key = f"metrics.{metric}"
    first, _, rest = metric.partition("/")
    suites = [*list_suites(), UNDERSTANDING]
    if first == "eval" and rest and rest.partition("/")[0] not in suites:
        known = [f"eval/{suite}" for suite in suites]
        fix = did_you_mean("/".join(metric.split("/")[:2]), known)
        return [Problem(key, goal, "a metric of a suite", fix)]
    if first not in ("eval", "val", "train") or not rest:
        fix = "for example `val/loss: min` or `eval/avatars/attributes: max`"
        return [Problem(key, goal, "a metric, `val/...`, `train/...` or `eval/...`", fix)]
    if first != "eval" and metric not in LOSSES and get_close_matches(metric, LOSSES, cutoff=0.8):
        return [Problem(key, goal, "a metric", did_you_mean(metric, LOSSES))]
    return []


def metric_problems(file: SweepFile, chains: Mapping[str, Sequence[StagePlan]]) -> list[Problem]:
    """Find the metrics of a sweep that none of its runs logs.

    Args:
        file: the sweep.
        chains: the stages of one member by its row's name.

    Returns:
        A problem for each.
    """
    stages = [plan for chain in chains.values() for plan in chain]
    problems = []
    for metric, goal in file.metrics.items():
        reasons = [why_not(plan.cfg, metric) for plan in stages]
        if reasons and all(reasons):
            expected = f"a metric that a stage logs ({reasons[-1]})"
            fix = "take it out of `metrics:`, or change what is validated or drawn"
            problems.append(Problem(f"metrics.{metric}", goal, expected, fix))
        elif meant := _slip(metric):
            fix = f"did you mean {meant!r}?"
            problems.append(Problem(f"metrics.{metric}", goal, "a metric that a stage logs", fix))
    return problems


def _slip(metric: str) -> str:
    """Return the metric of a suite that a name is a slip of; "" where it is one, or unlike all.

    Suites name some of their metrics by tasks or kinds of prompts, so a name that is like none is
    left alone.
    """
    first, suite, name = [*metric.split("/", 2), "", ""][:3]
    if first != "eval" or not (SUITES / f"{suite}.py").is_file():
        return ""
    own = _words(SUITES / f"{suite}.py")
    if name in own or any(name.startswith(f"{word}_") for word in own):  # such as `direct_colour`
        return ""
    alike = get_close_matches(name, own, 1, SLIP)
    if not alike or name in _words(SUITES.parent):  # a metric that suites share
        return ""
    return f"eval/{suite}/{alike[0]}"


@functools.cache
def _words(path: Path) -> tuple[str, ...]:
    """Return the plain words among the texts of a file, or of all files below a folder."""
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in files]
    texts = {node.value for tree in trees for node in ast.walk(tree)
             if isinstance(node, ast.Constant) and isinstance(node.value, str)}  # fmt: skip
    return tuple(sorted(text for text in texts if text.isidentifier()))


def why_not(cfg: DictConfig, metric: str) -> str:
    """Say why a run does not log a metric, "" where it does or nobody knows.

    Args:
        cfg: its configuration.
        metric: such as `val/loss/editing` or `eval/avatars/attributes`.
    """
    first, second, rest = [*metric.split("/", 2), "", ""][:3]
    validation, system = cfg.get("validation"), str(cfg.system.name)
    if validation is None or ":" in system or first == "train":
        return ""
    if first == "val":
        if not validation.num_samples:
            return VALIDATION
        tasks = cfg.data.get("tasks") or {}
        if system == DRAWS and second == "loss" and rest and not tasks.get(rest):
            return f"{cfg.stage} has no task {rest}"
        return ""
    if second == UNDERSTANDING:
        return "" if system == UNDERSTANDING else f"{cfg.stage} trains no {UNDERSTANDING}"
    return _why_not_drawn(cfg, second)


def _why_not_drawn(cfg: DictConfig, suite: str) -> str:
    """Say why a suite is not drawn at the end of a run."""
    if cfg.system.name != DRAWS:
        return f"{cfg.stage} draws nothing"
    if not cfg.validation.num_images:
        return "validation.num_images is 0"
    wanted = cfg.validation.get("suites")
    if wanted and suite not in wanted:
        return f"validation.suites leaves {suite} out"
    known, kinds = _worlds_of(suite), _kinds(cfg.data.world)
    if known and kinds and not known & kinds:
        return f"{suite} is about {' and '.join(sorted(known))}, not {' and '.join(sorted(kinds))}"
    return ""


def _kinds(world: DictConfig) -> set[str]:
    """Return the kinds of worlds that a world holds; none where one is of somebody's own."""
    parts = world.get("worlds")
    nodes = list(parts.values()) if isinstance(parts, DictConfig) else [world]
    names = {str(node.get("name", "")) if isinstance(node, DictConfig) else "" for node in nodes}
    return set() if any(":" in name or not name for name in names) else names


@functools.cache
def _worlds_of(suite: str) -> frozenset[str]:
    """Read the worlds of a suite from its file; none where they are not written out there."""
    file = SUITES / f"{suite}.py"
    tree = ast.parse(file.read_text(encoding="utf-8")) if file.is_file() else ast.Module([], [])
    found: set[str] = set()
    for node in ast.walk(tree):
        named = [to.id for to in getattr(node, "targets", ()) if isinstance(to, ast.Name)]
        if named == ["parts"] and isinstance(getattr(node, "value", None), ast.Dict):
            keys = node.value.keys  # type: ignore[attr-defined]
            found |= {str(key.value) for key in keys if isinstance(key, ast.Constant)}
    return frozenset(found)
