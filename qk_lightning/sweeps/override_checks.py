"""Overrides of a sweep file that something else in it would undo."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import OmegaConf

from qk_lightning.config.chain import StagePlan
from qk_lightning.config.errors import ConfigError, Problem
from qk_lightning.config.layers import full_key
from qk_lightning.sweeps.file import SweepFile


def check_overrides_of(file: SweepFile) -> None:
    """Refuse overrides that the axes or the seeds, which come after them, would undo.

    Args:
        file: the sweep.

    Raises:
        ConfigError: with all of them.
    """
    axes = {full_key(axis.removeprefix("all.")): axis for axis in file.axes}
    problems = []
    named = (*file.listed, *file.controls)
    for text in (*file.overrides, *(text for row in named for text in row.overrides)):
        key = text.partition("=")[0].strip()
        if re.fullmatch(r"(\w+\.)?seed", key):
            problems.append(Problem("override", text, "no seed", "change `seeds:` of the sweep"))
    for text in file.overrides:
        key = full_key(text.partition("=")[0].strip().removeprefix("all."))
        if key in axes:
            fix = f"change `axes:` of the sweep, or take {axes[key]} out of them"
            problems.append(Problem("override", text, "no key that is an axis", fix))
    if problems:
        raise ConfigError(problems)


def undone_problems(file: SweepFile, chains: Mapping[str, Sequence[StagePlan]]) -> list[Problem]:
    """Find overrides of one stage that an axis undoes there, though it is written otherwise.

    `stage3.optimizer.lr=1e-3` beside an axis `optimizer.lr` is one where stage 3 is the last.

    Args:
        file: the sweep.
        chains: the stages of one member by its row's name.

    Returns:
        A problem for each.
    """
    stages = list(dict.fromkeys(plan.stage for chain in chains.values() for plan in chain))
    axes = {_split(axis, stages)[1]: axis for axis in file.axes}
    problems = []
    for text in file.overrides:
        stage, key = _split(text.partition("=")[0].strip(), stages)
        reached = [plan for chain in chains.values() for plan in chain
                   if plan.stage == (stage or chain[-1].stage)]  # fmt: skip
        wanted = _value(text)
        if stage != "all" and key in axes and any(_set(plan, key) != wanted for plan in reached):
            fix = f"take it out, or name the stages of the axis: stage1.{key}"
            expected = f"no override that the axis {axes[key]} undoes"
            problems.append(Problem("override", text, expected, fix))
    return problems


def _split(key: str, stages: Sequence[str]) -> tuple[str, str]:
    """Split a key into the stage that it begins with, or "", and the option."""
    first, _, rest = key.partition(".")
    return (first, full_key(rest)) if rest and first in (*stages, "all") else ("", full_key(key))


def _value(text: str) -> Any:
    raw = text.partition("=")[2]
    return _plain(OmegaConf.select(OmegaConf.from_dotlist([f"value={raw}"]), "value"))


def _set(plan: StagePlan, key: str) -> Any:
    return _plain(OmegaConf.select(plan.cfg, key))


def _plain(node: Any) -> Any:
    return OmegaConf.to_container(node) if OmegaConf.is_config(node) else node
