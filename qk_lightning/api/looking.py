"""Looking before training: what an option means, what a run costs, what a world holds."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from qk_lightning.api.pictures import open_picture
from qk_lightning.api.training import see_edits
from qk_lightning.config.arguments import check_counts
from qk_lightning.config.chain import plan_chain
from qk_lightning.config.errors import ConfigError, Problem
from qk_lightning.config.validate import checked_part

if TYPE_CHECKING:
    from PIL.Image import Image

    from qk_lightning.assembly.dry_run import DryRun
    from qk_lightning.data.sample import World


def explain(preset: str | Path, key: str, overrides: Sequence[str] = ()) -> str:
    """Say what an option means, its type and default, its value here, and who reads it.

    Args:
        preset: the preset whose options are meant: parts have options of their own.
        key: a dotted key such as `connector.num_layers`, a section or a part family.
        overrides: `key=value` texts.

    Returns:
        Text.

    Raises:
        ConfigError: there is no such preset or option.
    """
    from qk_lightning.cli import config

    see_edits()
    return config.explain(plan_chain(preset, overrides)[-1].cfg, key)


def dry_run(preset: str | Path, overrides: Sequence[str] = ()) -> DryRun:
    """Count parameters, batches and memory of a run without reading weights.

    Args:
        preset: the preset.
        overrides: `key=value` texts.

    Returns:
        The counts; `.describe()` writes them as a table.

    Raises:
        ConfigError: with everything that is wrong.
    """
    from qk_lightning.assembly import dry_run as counting

    return counting.dry_run(plan_chain(preset, overrides)[-1].cfg)


def open_world(world: str | Path, **options: Any) -> World:
    """Open a world and draw or read its pictures, unless they are cached.

    Args:
        world: its name, such as `avatars`, or a .jsonl file of your own.
        **options: the world's own options, such as `num_identities=50`.

    Returns:
        The world.

    Raises:
        ConfigError: there is no such world, or an option is wrong.
    """
    from qk_lightning.assembly import build

    name = str(world)
    node = {"name": "jsonl", "path": name} if name.endswith(".jsonl") else {"name": name}
    checked = checked_part("world", {**node, **options}, "world")
    opened = build.open_world(OmegaConf.create(checked))
    opened.prepare()
    return opened


def show_world(world: str | Path | World, per_task: int = 4, **options: Any) -> Image:
    """Draw some samples of every task of a world, with prompts and roles.

    Args:
        world: its name, a .jsonl file, or an open world.
        per_task: samples of each task.
        **options: the world's own options.

    Returns:
        One labelled picture.

    Raises:
        ConfigError: there is no such world, or an option is wrong.
    """
    from qk_lightning.data.contact_sheet import contact_sheet
    from qk_lightning.data.sample import World

    check_counts(per_task=per_task)
    if not isinstance(world, World | str | Path):
        raise ConfigError(Problem("world", world, "a world", "name one, such as 'avatars'"))
    opened = open_world(world, **options) if isinstance(world, str | Path) else world
    with tempfile.TemporaryDirectory() as folder:
        return open_picture(contact_sheet(opened, Path(folder) / "sheet.png", per_task))
