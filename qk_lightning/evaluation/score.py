"""From pictures to one row an item: verdict, score, reason, parts. What is missing has failed.

Pictures come from a folder with a manifest, from anybody's folder of PNGs, or from memory.
B pictures of 3 x H x W, uint8.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from qk_lightning.config.atomic import write_text
from qk_lightning.config.errors import ConfigError, Problem
from qk_lightning.data.pictures import load_picture
from qk_lightning.data.sample import World
from qk_lightning.evaluation.draw import layouts_of
from qk_lightning.evaluation.item import Item, Pictures, plain
from qk_lightning.evaluation.manifest import file_digest, read_manifest
from qk_lightning.evaluation.suite import Suite
from qk_lightning.evaluation.verdict import Verdict

RESULTS = "results.jsonl"
CHUNK = 256  # pictures that are read at a time


@dataclass
class Found:
    """Where pictures are.

    Args:
        files: file by (item, sample).
        notes: what a reader of the scores should know of them.
    """

    files: dict[tuple[str, int], Path] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def find_pictures(folder: Path, items: Sequence[Item], num_samples: int) -> Found:
    """Look for the items' pictures: by the manifest, else `<id>.png` or `<id>/0000.png`, ...

    Args:
        folder: anybody's.
        items: what was planned.
        num_samples: pictures of each item.

    Returns:
        The files; a missing one is left out.

    Raises:
        ConfigError: there is no such folder, no file of it is an item's, or a file is not the
            one that the manifest names.
    """
    if not folder.is_dir():
        fix = "name the folder that holds <id>.png; `qk evaluate prompts` lists the ids"
        raise ConfigError(Problem("--images", folder, "a folder", fix))
    found = Found()
    manifest = read_manifest(folder)
    changed = []
    for item in items:
        for sample in range(num_samples):
            drawn = manifest.get((item.id, sample))
            names = [f"{item.id}/{sample:04d}.png", *([f"{item.id}.png"] if sample == 0 else [])]
            paths = [folder / drawn.path] if drawn else [folder / name for name in names]
            file = next((path for path in paths if path.is_file()), None)
            if file is None:
                continue
            if drawn and file_digest(file) != drawn.sha256:
                changed.append(str(file.relative_to(folder)))
            found.files[item.id, sample] = file
    if not found.files:
        here = sorted(file.name for file in folder.iterdir())[:3]
        expected = f"files such as {items[0].id}.png (found {', '.join(here) or 'nothing'})"
        fix = "`qk evaluate prompts SUITE --output FOLDER` lists the ids of a suite"
        raise ConfigError(Problem("--images", folder, expected, fix))
    if changed:
        fix = "draw them again, or remove manifest.jsonl to score the files as they are"
        shown = ", ".join(changed[:3])
        expected = f"the files that manifest.jsonl names ({len(changed)} differ: {shown})"
        raise ConfigError(Problem("--images", folder, expected, fix))
    return found


def load_pictures(
    found: Found, items: Sequence[Item], worlds: Mapping[str, World], sample: int
) -> dict[str, np.ndarray]:
    """Read pictures at the size of their world.

    Args:
        found: where they are; a note is added where sizes differ.
        items: whose.
        worlds: the worlds by kind.
        sample: which of each item's pictures.

    Returns:
        [3, H, W] uint8 by item id; missing ones are left out.
    """
    from PIL import Image

    images = {}
    for item in items:
        file = found.files.get((item.id, sample))
        if file is None:
            continue
        size = worlds[item.world].size
        images[item.id] = load_picture(file, size)
        with Image.open(file) as opened:
            given = opened.size
        if given != (size, size):
            note = f"pictures of {given[0]} x {given[1]} were brought to {size} x {size}"
            if note not in found.notes:
                found.notes.append(note)
    return images


def score_folder(
    suite: Suite,
    worlds: Mapping[str, World],
    items: Sequence[Item],
    found: Found,
    num_samples: int,
) -> list[dict[str, Any]]:
    """Score pictures on disk, a few at a time.

    Args:
        suite: the suite.
        worlds: the worlds by kind.
        items: what was planned.
        found: where the pictures are.
        num_samples: pictures of each item.

    Returns:
        A row for each item and sample.
    """
    rows = []
    for sample in range(num_samples):
        for start in range(0, len(items), CHUNK):
            chunk = items[start : start + CHUNK]
            images = load_pictures(found, chunk, worlds, sample)
            rows += score_pictures(suite, worlds, chunk, images, sample)
    return rows


def score_pictures(
    suite: Suite,
    worlds: Mapping[str, World],
    items: Sequence[Item],
    images: Mapping[str, np.ndarray],
    sample: int = 0,
) -> list[dict[str, Any]]:
    """Score pictures in memory.

    Args:
        suite: the suite.
        worlds: the worlds by kind.
        items: what was planned.
        images: [3, H, W] uint8 by item id.
        sample: which of each item's pictures they are.

    Returns:
        A row for each item; one without a picture has failed, and `scored` is False.
    """
    rows: dict[str, dict[str, Any]] = {item.id: _missing(item, sample) for item in items}
    for pictures in _groups(items, images, worlds):
        world = worlds[pictures.items[0].world]
        scorer = suite.scorer(world)
        for item, verdict in zip(pictures.items, suite.verdicts(world, pictures), strict=True):
            rows[item.id] = _row(item, sample, scorer, verdict)
    return list(rows.values())


def _groups(
    items: Sequence[Item], images: Mapping[str, np.ndarray], worlds: Mapping[str, World]
) -> Iterator[Pictures]:
    here = [item for item in items if item.id in images]
    for group in layouts_of(here, CHUNK):
        sources = None
        if group[0].images:
            world = worlds[group[0].world]
            sources = np.stack([world.image(item.images[0]) for item in group])
        yield Pictures(group, np.stack([images[item.id] for item in group]), sources)


def _heading(item: Item, sample: int) -> dict[str, Any]:
    return {
        "id": item.id,
        "sample": sample,
        "world": item.world,
        "task": item.task,
        "tag": item.tag,
        "split": item.split,
        "cluster": item.cluster,
    }


def _missing(item: Item, sample: int) -> dict[str, Any]:
    return {
        **_heading(item, sample),
        "scored": False,
        "scorer": "",
        "verdict": False,
        "score": 0.0,
        "reason": "missing",
        "parts": {},
        "detections": [],
    }


def _row(item: Item, sample: int, scorer: str, verdict: Verdict) -> dict[str, Any]:
    return {
        **_heading(item, sample),
        "scored": True,
        "scorer": scorer,
        "verdict": bool(verdict.correct),
        "score": float(verdict.score),
        "reason": verdict.reason,
        "parts": {name: float(value) for name, value in verdict.parts.items()},
        "detections": verdict.detections,
    }


def write_results(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write results.jsonl.

    Args:
        folder: where.
        rows: what was scored.
    """
    text = "".join(json.dumps(row, default=plain) + "\n" for row in rows)
    write_text(folder / RESULTS, text)
