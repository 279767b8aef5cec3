"""The copy of a sweep's file in its own folder, by which its name finds it again.

`qk report NAME` and `qk sweep NAME` read it, so it says what was run: the sweep's name, which a
file may leave to its own, and the overrides of the command line, which no file has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from omegaconf import OmegaConf

from qk_lightning.config.atomic import write_text
from qk_lightning.config.layers import read_layer
from qk_lightning.config.paths import sweeps_root
from qk_lightning.sweeps.file import SWEEP_COPY, Row, SweepFile
from qk_lightning.sweeps.space import Range


def keep_sweep(file: SweepFile) -> None:
    """Write a sweep to its own folder: its file as it is, where that says all.

    Args:
        file: the sweep; nothing is kept of one that another command runs.
    """
    if file.command:
        return
    text = None
    if file.path is not None and read_layer(file.path).values.get("name") == file.name:
        text = file.path.read_text(encoding="utf-8")  # with its comments
    write_text(sweeps_root() / file.name / SWEEP_COPY, text or sweep_text(file))


def sweep_text(file: SweepFile) -> str:
    """Write a sweep as the file that says the same, such as one that was made in memory.

    Args:
        file: the sweep.

    Returns:
        YAML.
    """
    values = {
        "name": file.name,
        "preset": file.preset,
        "overrides": list(file.overrides),
        "axes": _axes(file),
        "search": asdict(file.search) if file.search else None,
        "zip": [list(group) for group in file.zipped] or None,
        "rows": _named(file.listed) if file.listed and not file.search else None,
        "controls": _named(file.controls) or None,
        "seeds": list(file.seeds),
        "baseline": file.baseline or None,
        "budget": file.budget.to_values() if file.budget else None,
        "metrics": dict(file.metrics),
        "slots": file.slots or None,
        "threads": file.threads,
        "gpus": file.gpus,
        "cores": file.cores or None,
        "executor": file.executor or None,
    }
    said = {key: value for key, value in values.items() if value is not None}
    return OmegaConf.to_yaml(OmegaConf.create(said))


def _axes(file: SweepFile) -> dict[str, Any]:
    if not file.search:
        return {axis: list(options) for axis, options in file.axes.items()}
    return {key: of.to_values() if isinstance(of, Range) else list(of)
            for key, of in file.space.items()}  # fmt: skip


def _named(rows: Sequence[Row]) -> list[dict[str, Any]]:
    return [{"name": row.name, "overrides": list(row.overrides)} for row in rows]
