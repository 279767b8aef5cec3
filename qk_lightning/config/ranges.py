"""Values of the right type that are out of range: bounds of sections, names, shares, LoRA.

Not here: types and unknown keys (validate.py), options that contradict each other
(contradictions.py).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from qk_lightning.config.errors import Problem, did_you_mean
from qk_lightning.config.paths import list_suites
from qk_lightning.config.sections import RANGES

MAX_NAME = 200  # `<name>-<identity>` and a temporary name beside it fit into 255 bytes


def top_level_problems(checked: Mapping[str, Any]) -> Iterator[Problem]:
    """List what is wrong with the entries above all sections.

    Args:
        checked: a configuration with these entries present.

    Yields:
        Problems.
    """
    seconds = checked["reference_seconds"]
    if isinstance(seconds, float) and not 0 <= seconds < math.inf:
        fix = "measure one run, or leave it out"
        yield Problem("reference_seconds", seconds, "a finite number, 0 or more", fix)
    for key in ("name", "stage"):
        text = checked[key]
        if text is None or not re.fullmatch(r"[A-Za-z0-9][\w.]*", str(text)):
            expected = "letters, digits, _ and . (it names a folder)"
            yield Problem(key, text, expected, "choose another name")
        elif len(str(text).encode()) > MAX_NAME:
            yield Problem(key, text, f"a name of {MAX_NAME} bytes or less", "choose a shorter one")


def lora_problems(key: str, lora: Mapping[str, Any]) -> Iterator[Problem]:
    """List what is wrong with one part's LoRA.

    Args:
        key: what its options are called in errors.
        lora: all options of it.

    Yields:
        Problems.
    """
    if isinstance(lora["rank"], int) and lora["rank"] < 1:
        yield Problem(f"{key}.rank", lora["rank"], "1 or more", "for example 16")
    if isinstance(lora["alpha"], float) and not 0 < lora["alpha"] < math.inf:
        yield Problem(f"{key}.alpha", lora["alpha"], "a finite number above 0", "null = rank")


def range_problems(checked: Mapping[str, Any], families: tuple[str, ...]) -> Iterator[Problem]:
    """List the numbers and names of all sections that cannot be.

    Args:
        checked: the configuration with every option present.
        families: the parts of the system.

    Yields:
        Problems.
    """
    for key, (low, high) in RANGES.items():
        section, name = key.split(".")
        value = checked[section][name]
        if not isinstance(value, int | float):
            continue
        if not low <= value <= high or not math.isfinite(value):
            bounds = f"{low:g} or more" if high == math.inf else f"{low:g} to {high:g}"
            expected = "a finite number" if low == -math.inf else f"a finite number, {bounds}"
            yield Problem(key, value, expected, "choose a number in that range")
    yield from _optimizer_problems(checked, families)
    suites = list_suites()
    for name in checked["validation"]["suites"]:
        if name not in suites:
            yield Problem("validation.suites", name, "a suite", did_you_mean(name, suites))
    for task, weight in checked["data"]["tasks"].items():
        if not 0 <= weight < math.inf:
            expected = "a finite weight of 0 or more"
            yield Problem(f"data.tasks.{task}", weight, expected, "0 leaves the task out")


def _optimizer_problems(checked: Mapping[str, Any], families: tuple[str, ...]) -> Iterator[Problem]:
    betas = checked["optimizer"]["betas"]
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        expected = "two numbers from 0 to below 1"
        yield Problem("optimizer.betas", betas, expected, "for example [0.9, 0.95]")
    trainer, data = checked["trainer"], checked["data"]
    rows, groups = trainer["global_batch_size"], data["groups_per_step"]
    if isinstance(rows, int) and isinstance(groups, int) and groups > 0 and rows % groups:
        fix = f"choose a multiple of {groups}, or another data.groups_per_step"
        yield Problem("trainer.global_batch_size", rows, f"a multiple of {groups} groups", fix)
    for family, value in checked["optimizer"]["lr_scale"].items():
        key = f"optimizer.lr_scale.{family}"
        if family not in families:
            yield Problem(key, value, "a part of the system", did_you_mean(family, families))
        elif not 0 <= value < math.inf:
            yield Problem(key, value, "a finite factor of 0 or more", "1 = the learning rate")
