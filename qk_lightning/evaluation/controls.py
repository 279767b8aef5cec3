"""Controls: what a score would be for pictures that are known. Printed beside every score.

gt: the world's own pictures (what the reader gets right); recon: the same through the codec (the
ceiling of anything drawn with it); shuffled: the right picture of another prompt of the same kind
(what chance gives); blank: plain grey; copy: the first input, unchanged.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qk_lightning.config.atomic import write_json
from qk_lightning.config.paths import cache_root
from qk_lightning.data.collate import to_pixels, to_unit
from qk_lightning.data.disk_cache import build_once
from qk_lightning.data.latent_cache import latent_key
from qk_lightning.data.sample import World
from qk_lightning.evaluation.aggregate import summarise_rows
from qk_lightning.evaluation.item import Item
from qk_lightning.evaluation.levels import Levels
from qk_lightning.evaluation.prompt_set import PromptSet
from qk_lightning.evaluation.score import score_pictures
from qk_lightning.evaluation.suite import Suite
from qk_lightning.parts.base import Part

CONTROLS = ("gt", "recon", "shuffled", "blank", "copy")
VERSION = 2  # of how controls are made; what is kept of another one is made anew
GREY = 128
BUILTIN_CODEC = "builtin:laptop_codec"
CODEC_BATCH = 64


def control_levels(prompts: PromptSet, worlds: Mapping[str, World], codec: Part | None) -> Levels:
    """Score the controls of a prompt set; computed once and kept under the cache.

    Kept by world and task: a run that trained more tasks than another finds what is known.

    Args:
        prompts: the prompt set.
        worlds: the worlds by kind.
        codec: the autoencoder; None leaves `recon` out.

    Returns:
        Value by metric name, by control.
    """
    suite, metrics = prompts.suite, prompts.suite.metrics(prompts.items)
    groups: dict[tuple[str, str], list[Item]] = {}
    for item in prompts.items:
        groups.setdefault((item.world, item.task), []).append(item)
    levels: Levels = {}
    for control in CONTROLS:
        if control not in suite.controls or (control == "recon" and codec is None):
            continue
        of_control = codec if control == "recon" else None
        rows: list[dict[str, Any]] = []
        for (kind, _), items in groups.items():
            if control != "copy" or items[0].images:
                rows += _kept_rows(control, suite, items, {kind: worlds[kind]}, of_control)
        if rows:
            found = summarise_rows(rows, metrics, with_interval=False)
            levels[control] = {name: value.value for name, value in found.items()}
    return levels


def _kept_rows(
    control: str,
    suite: Suite,
    items: Sequence[Item],
    worlds: Mapping[str, World],
    codec: Part | None,
) -> list[dict[str, Any]]:
    """Score a control's pictures of one world and task, or find the verdicts in the cache."""
    (world,) = worlds.values()
    key = [VERSION, control, suite.name, suite.version, suite.scorer(world), world.fingerprint()]
    key += ["" if codec is None else latent_key(world, codec)]
    key += [{**item.to_row(), "seed": 0} for item in items]  # controls have no noise
    digest = hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()
    name = f"{suite.name}-{items[0].world}-{items[0].task}-{control}-{digest[:16]}.json"
    path = cache_root() / "controls" / name

    def build(file: Path) -> None:
        """Score the pictures; what was detected is of no use here."""
        images = control_images(control, suite, items, worlds, codec)
        here = [item for item in items if item.id in images]
        rows = score_pictures(suite, worlds, here, images)
        write_json(file, [{**row, "detections": []} for row in rows])

    build_once(path, _is_whole, build)
    return list(json.loads(path.read_text()))


def scorers(prompts: PromptSet, worlds: Mapping[str, World]) -> list[str]:
    """Name the readers of a prompt set.

    Args:
        prompts: the prompt set.
        worlds: the worlds by kind.
    """
    return [f"{kind}: {prompts.suite.scorer(worlds[kind])}" for kind in prompts.worlds]


def _is_whole(path: Path) -> bool:
    try:
        return isinstance(json.loads(path.read_text()), list)
    except (OSError, ValueError):
        return False


def control_images(
    control: str,
    suite: Suite,
    items: Sequence[Item],
    worlds: Mapping[str, World],
    codec: Part | None = None,
) -> dict[str, np.ndarray]:
    """Make the pictures of a control.

    Args:
        control: one of CONTROLS.
        suite: the items' suite.
        items: the items; for `copy` each has an input.
        worlds: the worlds by kind.
        codec: the autoencoder, for `recon`.

    Returns:
        [3, H, W] uint8 by item id.
    """
    if control == "copy":
        return {item.id: worlds[item.world].image(item.images[0]) for item in items}
    right = {item.id: suite.target(worlds[item.world], item) for item in items}
    if control == "gt":
        return right
    if control == "shuffled":
        return {item.id: right[other.id] for item, other in shuffled(items)}
    if control == "blank":
        return {name: np.full_like(image, GREY) for name, image in right.items()}
    assert codec is not None
    return reconstruct(right, codec)


def shuffled(items: Sequence[Item]) -> list[tuple[Item, Item]]:
    """Give each item another one of the same world, task and tag.

    In an order of no meaning, and never one that shows the same picture or has the same caption
    where there is a choice: worlds number their samples person by person and edit by edit, so
    that a fixed distance would meet the same person, or the edit back. An item that is alone in
    its group is paired with one of another tag of its task, and left out where there is none.

    Args:
        items: the items.

    Returns:
        Pairs (item, the other one).
    """
    tags: dict[tuple[str, ...], list[Item]] = {}
    tasks: dict[tuple[str, ...], list[Item]] = {}
    for item in sorted(items, key=lambda item: hashlib.sha256(item.id.encode()).digest()):
        tags.setdefault((item.world, item.task, item.tag), []).append(item)
        tasks.setdefault((item.world, item.task), []).append(item)
    pairs = {}
    for (world, task, tag), group in tags.items():
        members = group if len(group) > 1 else tasks[world, task]
        for place, item in enumerate(members):
            others = [*members[place + 1 :], *members[:place]]
            if others and item.tag == tag:
                apart = (other for other in others if not _alike(item, other))
                pairs[item.id] = (item, next(apart, others[0]))
    return [pairs[item.id] for item in items if item.id in pairs]


def _alike(item: Item, other: Item) -> bool:
    pictures = {*item.images, item.target} & {*other.images, other.target} - {-1}
    return bool(pictures) or (item.prompt == other.prompt and not item.images)


@torch.no_grad()
def reconstruct(images: Mapping[str, np.ndarray], codec: Part) -> dict[str, np.ndarray]:
    """Send pictures through the codec.

    Args:
        images: [3, H, W] uint8 by name, of one size or several.
        codec: the autoencoder.

    Returns:
        The same names and shapes.
    """
    device = next(codec.parameters()).device if list(codec.parameters()) else torch.device("cpu")
    codec.eval()
    names = sorted(images, key=lambda name: images[name].shape)
    found: dict[str, np.ndarray] = {}
    for start in range(0, len(names), CODEC_BATCH):
        part = names[start : start + CODEC_BATCH]
        for shape in dict.fromkeys(images[name].shape for name in part):
            same = [name for name in part if images[name].shape == shape]
            given = to_unit(np.stack([images[name] for name in same])).to(device)
            decoded = codec.decode(codec.encode(given)).clamp(-1, 1)
            found |= dict(zip(same, to_pixels(decoded), strict=True))
    return found


def builtin_codec() -> Part | None:
    """Load the codec that comes with the package; None where there is none."""
    from omegaconf import OmegaConf

    from qk_lightning.assembly.build import build_part
    from qk_lightning.config.errors import ConfigError
    from qk_lightning.config.paths import resolve_path
    from qk_lightning.config.validate import checked_part

    try:
        resolve_path(BUILTIN_CODEC)
    except ConfigError:
        return None
    node = checked_part("autoencoder", {"name": "linear", "path": BUILTIN_CODEC}, "autoencoder")
    codec = build_part("autoencoder", OmegaConf.create(node), 0, {})
    return codec if codec.load_base() else None
