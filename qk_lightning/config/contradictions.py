"""Parts that are each right and cannot go together: found by what their classes say, no torch.

Not here: sizes, which only built parts know (`sweeps/preflight.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from qk_lightning.config.errors import ConfigError, Problem
from qk_lightning.config.schema import schema_of

WITHOUT_IMAGES = ("text_to_image",)  # the tasks that show the VLM no picture


def contradictions(checked: dict[str, Any]) -> list[Problem]:
    """List what contradicts what.

    Args:
        checked: the sections and parts of a configuration, defaults filled in; a part that was
            refused is None.

    Returns:
        The problems.
    """
    return [*_blind_vlm(checked), *_nothing_to_read(checked), *_one_rank(checked)]


def _blind_vlm(checked: dict[str, Any]) -> Iterator[Problem]:
    """A VLM that reads text alone, and tasks or questions that show it pictures."""
    if _attribute(checked, "vlm", "reads_images", True):
        return
    name = checked["vlm"]["name"]
    if not _attribute(checked, "system", "uses_tasks", True):
        expected = f"a vlm that sees, as the system asks about pictures; {name} reads text alone"
        yield Problem("vlm", name, expected, "for example vlm=qwen2_5_vl")
        return
    tasks = checked["data"]["tasks"] if isinstance(checked["data"]["tasks"], dict) else {}
    for task, weight in tasks.items():
        if weight and task not in WITHOUT_IMAGES:
            expected = f"0, as the vlm {name} reads text alone and the task shows it pictures"
            fix = f"set data.tasks.{task}=0, or use a vlm that sees, such as vlm=qwen2_5_vl"
            yield Problem(f"data.tasks.{task}", weight, expected, fix)


def _nothing_to_read(checked: dict[str, Any]) -> Iterator[Problem]:
    """Kontext alone as the condition, and no query to make it."""
    system = checked.get("system") or {}
    if system.get("context") == "queries" and _attribute(checked, "queries", "num_queries", 1) == 0:
        expected = f"text or both, as queries {checked['queries']['name']} make no kontext"
        yield Problem("system.context", "queries", expected, "set system.context=text")


def _one_rank(checked: dict[str, Any]) -> Iterator[Problem]:
    """Several devices, and a system whose random numbers or data do not follow the sample."""
    devices, system = checked["trainer"]["devices"], checked.get("system")
    if system is None or not isinstance(devices, int) or devices <= 1:
        return
    if not _attribute(checked, "system", "several_ranks", False):
        expected = f"1, as the system {system['name']} trains on one device"
        yield Problem("trainer.devices", devices, expected, "set trainer.devices=1")


def _attribute(checked: dict[str, Any], family: str, name: str, default: Any) -> Any:
    part = checked.get(family)
    if not isinstance(part, dict) or not isinstance(part.get("name"), str):
        return default
    try:
        return schema_of(family, part["name"]).attributes.get(name, default)
    except ConfigError:  # said elsewhere
        return default
