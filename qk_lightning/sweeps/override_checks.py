"""Overrides of a sweep file that something else in it would undo."""

from __future__ import annotations

import re

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
