"""Weights on disk, looked at before anything is built on them: headers only, nothing is loaded.

Not here: whether names and shapes fit a part (`weights.replay`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from omegaconf import DictConfig
from safetensors import SafetensorError, safe_open

from qk_lightning.config.errors import Problem
from qk_lightning.config.paths import is_local, resolve_path


def damaged_bases(cfg: DictConfig, families: Iterable[str]) -> list[Problem]:
    """Look at the weights that parts begin with.

    Args:
        cfg: a resolved configuration.
        families: the parts of its system.

    Returns:
        A problem for each file that is cut short, damaged or missing.
    """
    problems = []
    for family in families:
        path = cfg[family].get("path")
        if path and is_local(path):
            folder = resolve_path(path, f"{family}.path") / (cfg[family].get("subfolder") or "")
            fix = "copy or fetch the file again"
            problems += [
                Problem(f"{family}.path", path, f"whole safetensors ({reason})", fix)
                for reason in _damage(folder)
            ]
    return problems


def _damage(folder: Path) -> list[str]:
    """Say what is wrong with a folder's safetensors; a header tells how long its file must be."""
    found = []
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            found.append(f"{file.name}: {error}")
    for index in sorted(folder.glob("*.safetensors.index.json")):
        try:
            shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError):
            found.append(f"{index.name}: no list of files")
            continue
        found += [f"{name}: missing" for name in shards if not (folder / name).is_file()]
    return found
