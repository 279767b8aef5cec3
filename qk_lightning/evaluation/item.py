"""What a suite plans and measures: items, pictures of them, and named means over them.

Shapes: B pictures of 3 x H x W, uint8.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

SEEN = "seen"
# Every val item shows people or subjects that training does not, so that says nothing of an item.
ALWAYS_HELD_OUT = ("identity",)


@dataclass(frozen=True)
class Item:
    """One thing to draw.

    Args:
        id: unique in the suite; a file name.
        suite: the suite.
        world: label of the world that it comes from.
        task: one of TASKS.
        tag: what kind of prompt or edit it is.
        prompt: what is asked for.
        seed: of the noise; sample k of an item is drawn with seed + k.
        index: position in the world's val split of the task; with the seed the key of the noise.
        facts: what should be seen.
        split: `seen`, or which kinds of concept were held out from training.
        roles: roles of the input pictures.
        images: rows of the input pictures in the world's table.
        target: row of the picture that would be right; -1 where the world has none.
        group: what resampling keeps together; empty = items of one prompt where only the prompt
            is given, else the item itself.
    """

    id: str
    suite: str
    world: str
    task: str
    tag: str
    prompt: str
    seed: int
    index: int
    facts: Mapping[str, Any]
    split: str = SEEN
    roles: tuple[str, ...] = ()
    images: tuple[int, ...] = ()
    target: int = -1
    group: str = ""

    @property
    def cluster(self) -> str:
        """What resampling keeps together."""
        return self.group or (self.id if self.images else f"{self.world}/{self.prompt}")

    def input_file(self, place: int) -> str:
        """Return where an exported prompt set keeps an input picture."""
        return f"inputs/{self.id}_{place}.png"

    def digest(self, fingerprint: str) -> str:
        """Return a digest of what is asked for, whatever the item's number.

        Args:
            fingerprint: of the item's world, which decides its input pictures.
        """
        text = json.dumps([fingerprint, self.to_row()], sort_keys=True, default=plain)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_row(self) -> dict[str, Any]:
        """Return the item as a line of prompts.jsonl."""
        inputs = [
            {"role": role, "file": self.input_file(place)} for place, role in enumerate(self.roles)
        ]
        return {
            "id": self.id,
            "suite": self.suite,
            "world": self.world,
            "task": self.task,
            "tag": self.tag,
            "prompt": self.prompt,
            "seed": self.seed,
            "index": self.index,
            "inputs": inputs,
            "facts": dict(self.facts),
            "split": self.split,
        }


@dataclass(frozen=True)
class Metric:
    """One number of a suite: a mean of one column over some of its items.

    Args:
        name: `eval/<suite>/<name>` is its key.
        column: `verdict`, `score`, or the name of a part of the verdicts.
        tasks: the tasks that count; empty = all.
        tags: the tags that count; empty = all.
        worlds: the worlds that count; empty = all.
        splits: the splits that count; empty = all.
        mean_of: `items`, or the groups whose means are averaged with equal weight (`tag`,
            `world`, or `topic`, the last word of the tag), as GenEval does with its tasks.
        worst: what a missing picture counts.
        is_share: whether values are shares, so that 0 and 1 bound them.
    """

    name: str
    column: str
    tasks: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    worlds: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()
    mean_of: str = "items"
    worst: float = 0.0
    is_share: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON: by them a report reads what each item counts."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }

    def counts(self, row: Mapping[str, Any]) -> bool:
        """Tell whether a row of results belongs to it.

        Args:
            row: with task, tag, world and split.
        """
        chosen = (
            ("task", self.tasks),
            ("tag", self.tags),
            ("world", self.worlds),
            ("split", self.splits),
        )
        return all(not wanted or row[key] in wanted for key, wanted in chosen)


@dataclass(frozen=True)
class Pictures:
    """Pictures of some items, to be scored.

    Args:
        items: B items of one world and task.
        images: [B, 3, H, W] uint8.
        sources: [B, 3, H, W] uint8, the first input picture; None where there is none.
    """

    items: Sequence[Item]
    images: np.ndarray
    sources: np.ndarray | None = None


def plain(value: Any) -> Any:
    """Turn numpy's numbers into plain ones, for JSON.

    Args:
        value: what `json` cannot write.
    """
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else str(value)


def split_of(facts: Mapping[str, Any]) -> str:
    """Name what was held out from training in an item.

    Args:
        facts: the sample's; `held_out` maps kinds of concept to whether the item has one.
    """
    held_out = facts.get("held_out") or {}
    if not isinstance(held_out, Mapping):
        return "pair" if held_out else SEEN
    kinds = [kind for kind, is_new in held_out.items() if is_new and kind not in ALWAYS_HELD_OUT]
    return "+".join(kinds) or SEEN
