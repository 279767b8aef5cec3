"""`qk data show WORLD`: a labelled contact sheet. `qk data leakage WORLD`: what is not held out."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from qk_lightning.config.errors import ConfigError, Problem
from qk_lightning.config.layer import Layer
from qk_lightning.config.layers import override_layer
from qk_lightning.config.paths import check_folder, check_output, runs_root, user_path
from qk_lightning.config.validate import checked_part

if TYPE_CHECKING:
    from qk_lightning.data.sample import World

LEAKS = 1


def data(options: argparse.Namespace) -> int:
    """Write a world's contact sheet, or look for held-out things in its training data.

    Args:
        options: the parsed command line.

    Returns:
        0, or 1 where something that is held out is in the training data.

    Raises:
        ConfigError: an unknown world, or a number out of range.
    """
    _check_numbers(options)
    check_folder("runs", runs_root())  # the world's pictures go there
    if options.output:
        options.output = user_path(options.output, "--output")
        check_output("--output", options.output)
    node = _node(options.world, options.overrides)
    shown = ", ".join(f"{key} {value}" for key, value in node.items() if key != "name")
    print(f"world {node['name']}: {shown}", flush=True)  # torch and the drawing take a while
    from qk_lightning.assembly.build import open_world

    world = open_world(OmegaConf.create(node))
    if options.output:
        _check_not_of_world(options.output, node["name"], world)
    world.prepare()
    if options.action == "leakage":
        return _leakage(world, options.limit)
    name = Path(options.world).stem if options.world.endswith(".jsonl") else node["name"]
    path = Path(options.output or runs_root() / f"{name}_sheet.png")
    _show(world, path, options.per_task)
    return 0


def _check_numbers(options: argparse.Namespace) -> None:
    given = {"--per-task": options.per_task, "--limit": options.limit}
    problems = [
        Problem(flag, value, "1 or more", "for example 1")
        for flag, value in given.items()
        if value is not None and value < 1
    ]
    if problems:
        raise ConfigError(problems)


def _check_not_of_world(output: Path, name: str, world: World) -> None:
    """See that a sheet does not take the place of a picture or a list that somebody trains on."""
    files = [file for part in world.parts() for file in getattr(part.world, "inputs", ())]
    if output.resolve() in {file.resolve() for file in files}:
        expected = f"a new file (the world {name} is made of this one)"
        raise ConfigError(Problem("--output", str(output), expected, "name another"))


def _node(name: str, overrides: list[str]) -> dict[str, Any]:
    """Compose the options of a world; an override may leave out `data.world.`."""
    if name.endswith(".jsonl"):
        layer = Layer({"data": {"world": {"name": "jsonl", "path": name}}})
    else:
        layer = override_layer(f"data.world={name}")
    for text in overrides:
        over = override_layer(text)
        if "data" not in over.values:
            over = override_layer(f"data.world.{text}")
        layer.merge(over)
    return checked_part("world", layer.values["data"]["world"], "world")


def _show(world: World, path: Path, per_task: int) -> None:
    from qk_lightning.data.contact_sheet import contact_sheet

    contact_sheet(world, path, per_task=per_task)
    for task in world.tasks:
        counts = [world.num_samples(task, split) for split in ("train", "val")]
        print(f"{task:<16} {counts[0]:>8,} train {counts[1]:>6,} val")
    print(f"{world.num_images:,} pictures of {world.size} px; sheet: {path}")


def _leakage(world: World, limit: int | None) -> int:
    from qk_lightning.data.leakage import check_leakage

    def progress(done: int, total: int) -> None:
        """Show how far it is, where somebody looks."""
        if sys.stderr.isatty() and (done % 1000 == 0 or done == total):
            print(f"\r{done:,} of {total:,} samples", end="", file=sys.stderr, flush=True)

    report = check_leakage(world, limit, progress=progress)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    print(report.describe())
    return LEAKS if report.leaks else 0
