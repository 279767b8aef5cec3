"""Where an export may be written, and what becomes of a LoRA; checked before anything loads."""

from __future__ import annotations

import json
from pathlib import Path

from qk_lightning.config.errors import ConfigError, Problem
from qk_lightning.config.exported_folder import INDEX, is_exported, own_names
from qk_lightning.config.paths import check_folder

LORA_CHOICES = ("merge", "keep")


def check_choice(lora: object) -> None:
    """See that it is clear what becomes of a LoRA.

    Args:
        lora: `merge` or `keep`.

    Raises:
        ConfigError: neither.
    """
    if lora not in LORA_CHOICES:
        raise ConfigError(Problem("lora", lora, " | ".join(LORA_CHOICES), "choose one"))


def check_target(folder: Path, force: bool) -> None:
    """See that a folder may be written to or replaced.

    Args:
        folder: where to write.
        force: an earlier export may go.

    Raises:
        ConfigError: it is a file, holds something else, or an export that was not to go.
    """
    check_folder("folder", folder)
    if not folder.exists():
        return
    whole, here = folder.resolve(), Path.cwd()
    if folder.is_symlink() or whole == here or whole in here.parents:
        expected = "a folder of its own, no link and not around where you are"
        raise ConfigError(Problem("folder", str(folder), expected, "name a new one"))
    held = {path.name for path in folder.iterdir()}
    if not held:
        return
    if not is_exported(folder):
        expected = "a new or empty folder, or one that qk export wrote"
        raise ConfigError(Problem("folder", str(folder), expected, "name another"))
    strange = sorted(held - own_names(json.loads((folder / INDEX).read_text(encoding="utf-8"))))
    if strange:
        expected = f"nothing but an earlier export (it also holds {', '.join(strange[:5])})"
        fix = "move that away, or name another"
        raise ConfigError(Problem("folder", str(folder), expected, fix))
    if not force:
        fix = "name another, or write over the earlier export: --force"
        raise ConfigError(Problem("folder", str(folder), "a new or empty folder", fix))
