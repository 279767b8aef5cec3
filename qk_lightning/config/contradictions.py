"""Parts that are each right and cannot go together: found by what their classes say, no torch.

Also what a world's constructor would refuse: tasks that no world has, files that are not there.
Not here: sizes, which only built parts know (`sweeps/preflight.py`).
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qk_lightning.config.devices import device_problems
from qk_lightning.config.errors import ConfigError, Problem, did_you_mean
from qk_lightning.config.mixture import WEIGHT
from qk_lightning.config.paths import is_local, package_root, resolve_path
from qk_lightning.config.resume import keep_best_problems
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
    return [
        *_blind_vlm(checked),
        *_nothing_to_read(checked),
        *_no_queries(checked),
        *_unknown_tasks(checked),
        *_missing_files(checked["data"]["world"], "data.world"),
        *_one_rank(checked),
        *device_problems(checked),
        *keep_best_problems(checked),
    ]


@functools.cache
def known_tasks() -> tuple[str, ...]:
    """Return the tasks that a world can have, read from `data/sample.py`, which needs torch."""
    tree = ast.parse((package_root() / "data" / "sample.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "TASKS":
            return tuple(ast.literal_eval(node.value))
    raise AssertionError("data/sample.py names no TASKS")


def _unknown_tasks(checked: dict[str, Any]) -> Iterator[Problem]:
    """Tasks that no world has; which of the others this one has, its own data say."""
    tasks = checked["data"]["tasks"]
    if not isinstance(tasks, dict) or not _attribute(checked, "system", "uses_tasks", True):
        return
    for task, weight in tasks.items():
        if task not in known_tasks():
            fix = did_you_mean(str(task), known_tasks())
            yield Problem(f"data.tasks.{task}", weight, "a known task", fix)


def _missing_files(world: Any, key: str) -> Iterator[Problem]:
    """Files of a world, or of the worlds of a mixture; what may be a hub's id is let through."""
    try:
        attributes = schema_of("world", world["name"]).attributes
    except (ConfigError, KeyError, TypeError):  # said elsewhere
        return
    for name in attributes.get("paths", ()):
        text = world.get(name)
        if isinstance(text, str) and (is_local(text) or Path(text).suffix):
            try:
                resolve_path(text, f"{key}.{name}")
            except ConfigError as error:
                yield from error.problems
    option = attributes.get("holds")
    for label, node in (world.get(option) or {}).items() if option else ():
        if node.get(WEIGHT):
            yield from _missing_files(node, f"{key}.{option}.{label}")


def _no_queries(checked: dict[str, Any]) -> Iterator[Problem]:
    """No query at all, where the part is made of them."""
    count = (checked.get("queries") or {}).get("num_queries")
    if isinstance(count, int) and count < 1:
        fix = "for example 64; queries=none reads the prompt alone (with system.context=text)"
        yield Problem("queries.num_queries", count, "1 or more", fix)


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
