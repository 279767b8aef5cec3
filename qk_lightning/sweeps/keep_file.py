"""The copy of a sweep's file in the sweep's folder, by which it is found by its name later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from qk_lightning.config.atomic import write_text
from qk_lightning.sweeps.file import Row, SweepFile
from qk_lightning.sweeps.reader import load_sweep
from qk_lightning.sweeps.space import Range

SWEEP_COPY = "sweep.yaml"


def keep_file(file: SweepFile, folder: Path) -> None:
    """Keep a sweep's file; with overrides of a command line, a file that says them too.

    Args:
        file: the sweep; nothing is kept of one that was made in memory.
        folder: the sweep's folder.
    """
    if file.path is None:
        return
    text = file.path.read_text(encoding="utf-8")
    if load_sweep(file.path).name != file.name:  # overrides beside the file gave it its name
        text = sweep_text(file)
    write_text(folder / SWEEP_COPY, text)


def sweep_text(file: SweepFile) -> str:
    """Write a sweep that was made in memory as the file that says the same.

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
