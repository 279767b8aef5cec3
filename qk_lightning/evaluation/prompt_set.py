"""A prompt set: what a suite asks for, as a file with a hash, so that scores can be compared.

prompts.jsonl has a line an item, prompt_set.json says of what it was made.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from qk_lightning.config.atomic import write_json, write_text
from qk_lightning.config.errors import ConfigError, Problem
from qk_lightning.data.sample import World
from qk_lightning.evaluation.item import Item, plain
from qk_lightning.evaluation.suite import Count, Suite

PROMPTS = "prompts.jsonl"
HEADER = "prompt_set.json"


@dataclass(frozen=True)
class PromptSet:
    """Items of a suite.

    Args:
        suite: the suite.
        items: what is drawn.
        worlds: fingerprint by world.
    """

    suite: Suite
    items: tuple[Item, ...]
    worlds: Mapping[str, str]

    @property
    def text(self) -> str:
        """The content of prompts.jsonl."""
        lines = [json.dumps(item.to_row(), sort_keys=True, default=plain) for item in self.items]
        return "".join(f"{line}\n" for line in lines)

    @property
    def sha256(self) -> str:
        """Digest of prompts.jsonl and of the worlds' fingerprints (which decide the pictures)."""
        head = json.dumps([self.suite.name, self.suite.version, dict(sorted(self.worlds.items()))])
        return hashlib.sha256(f"{head}\n{self.text}".encode()).hexdigest()

    def header(self) -> dict[str, Any]:
        """Return what prompt_set.json holds."""
        return {
            "suite": self.suite.name,
            "suite_version": self.suite.version,
            "sha256": self.sha256,
            "num_items": len(self.items),
            "worlds": dict(self.worlds),
        }

    def write(self, folder: Path) -> None:
        """Write the two files.

        Args:
            folder: where they go.
        """
        write_text(folder / PROMPTS, self.text)
        write_json(folder / HEADER, self.header())


def make_prompt_set(
    suite: Suite,
    worlds: Mapping[str, World],
    count: Count = None,
    seed: int = 0,
    tasks: Sequence[str] | None = None,
) -> PromptSet:
    """Make a suite's prompt set.

    Args:
        suite: the suite.
        worlds: the worlds by kind, prepared.
        count: the most items of one world and task, or that by task; None = all.
        seed: of the noise.
        tasks: tasks that count; None = all.
    """
    items = tuple(suite.items(worlds, count, seed, tasks))
    used = dict.fromkeys(item.world for item in items)
    return PromptSet(suite, items, {kind: worlds[kind].fingerprint() for kind in used})


def check_prompt_set(folder: Path, prompts: PromptSet) -> None:
    """See that pictures beside an exported prompt set are scored against that one.

    Args:
        folder: of the pictures.
        prompts: what they will be scored against.

    Raises:
        ConfigError: the folder's prompt_set.json is of the same suite and other worlds, or damaged.
    """
    file = folder / HEADER
    if not file.is_file():
        return
    try:
        header = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError):  # the first: no UTF-8, or no JSON
        header = None
    if not isinstance(header, dict):
        fix = "bring the file back, or remove it: then nothing is compared with it"
        raise ConfigError(Problem(str(file), None, "what `qk evaluate prompts` wrote there", fix))
    worlds = dict(prompts.worlds)
    if header.get("suite") == prompts.suite.name and header.get("worlds") != worlds:
        fix = "name the worlds' options as for `qk evaluate prompts`, such as scenes.size=64"
        raise ConfigError(Problem(str(file), header.get("worlds"), f"the worlds {worlds}", fix))


def export(prompts: PromptSet, worlds: Mapping[str, World], folder: Path) -> None:
    """Write a prompt set with its pictures, so that anybody can draw for it.

    Args:
        prompts: the prompt set.
        worlds: the worlds by kind.
        folder: gets prompts.jsonl, prompt_set.json, inputs/ and targets/.
    """
    prompts.write(folder)
    for item in prompts.items:
        world = worlds[item.world]
        for place, row in enumerate(item.images):
            write_picture(folder / item.input_file(place), world.image(row))
        target = prompts.suite.target(world, item)
        write_picture(folder / "targets" / f"{item.id}.png", target)


def write_picture(path: Path, image: np.ndarray) -> None:
    """Write a PNG.

    Args:
        path: the file.
        image: [3, H, W] uint8.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image.transpose(1, 2, 0)).save(path)
