"""`qk data show WORLD`: a labelled contact sheet."""

from __future__ import annotations

import argparse
from pathlib import Path

from omegaconf import OmegaConf

from qk_lightning.config.layers import override_layer
from qk_lightning.config.paths import runs_root
from qk_lightning.config.validate import checked_part


def data(options: argparse.Namespace) -> int:
    """Write a world's contact sheet.

    Args:
        options: the parsed command line.

    Returns:
        0.
    """
    from qk_lightning.assembly.build import open_world
    from qk_lightning.data.contact_sheet import contact_sheet

    is_file = options.world.endswith(".jsonl")
    node = {"name": "jsonl", "path": options.world} if is_file else {"name": options.world}
    given: dict[str, object] = {}
    for text in options.overrides:
        values = override_layer(text).values
        given |= values.get("data", {}).get("world", values)
    node = checked_part("world", {**node, **given}, "world")
    world = open_world(OmegaConf.create(node))
    world.prepare()
    path = Path(options.output or runs_root() / f"{node['name']}_sheet.png")
    contact_sheet(world, path, per_task=options.per_task)
    for task in world.tasks:
        counts = [world.num_samples(task, split) for split in ("train", "val")]
        print(f"{task:<16} {counts[0]:>8,} train {counts[1]:>6,} val")
    print(f"{world.num_images:,} pictures of {world.size} px; sheet: {path}")
    return 0
