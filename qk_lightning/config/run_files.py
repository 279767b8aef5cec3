"""What is well formed in a run's JSON files: what others wrote there counts as missing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NUMBER = (int, float)
STATUS: dict[str, type | tuple[type, ...]] = {
    "state": str, "step": int, "max_steps": int, "seconds": NUMBER, "seconds_per_step": NUMBER,
    "flops_per_step": NUMBER, "peak_flops": NUMBER,
    "started": str, "finished": str, "error": str,
}  # fmt: skip


def well_formed(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out entries that `qk` did not write.

    Args:
        name: the file, such as `status.json`; of one that is not known here all stays.
        values: what it holds.

    Returns:
        The entries whose values are of the right kind.
    """
    if name == "weights.json":
        return {**values, "entries": _entries(values.get("entries"))}
    fits = {"status.json": _is_status, "parameters.json": _is_count}.get(name)
    return {key: value for key, value in values.items() if fits is None or fits(key, value)}


def _entries(value: Any) -> list[dict[str, Any]]:
    # The good ones stay: they say which other runs this one needs.
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _is_status(key: str, value: Any) -> bool:
    return key not in STATUS or (isinstance(value, STATUS[key]) and not isinstance(value, bool))


def _is_count(family: str, value: Any) -> bool:
    known = isinstance(value, dict)
    return known and all(isinstance(value.get(name), int) for name in ("total", "trainable"))
