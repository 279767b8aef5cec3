"""One layer of values, each with its origin, and how a layer is put over another.

A layer is a plain nested dict with the origin ("file:line" or "command line") of each leaf. A
part named anew replaces the old part's node. Not here: reading layers (`layers.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from qk_lightning.config.errors import ConfigError, Problem
from qk_lightning.config.schema import PART_FAMILIES
from qk_lightning.config.sections import Trainer

# Where a part is named: naming another one replaces the node with all its options.
SWAPPABLE = (*PART_FAMILIES, "system", "data.world")
WORLDS = "data.world.worlds"  # of a mixture: each is swappable too
TASKS = "data.tasks"  # proportions: a mapping of them stands for itself


@dataclass
class Layer:
    """Values and where they came from.

    Args:
        values: nested plain values.
        origins: origin by dotted key of a leaf.
        replaces: a part's node that is emptied before this layer is put over another.
        keeps_tasks: its tasks join those below; as a rule they take their place.
        timed: samples (steps x batch) of the run that `reference_seconds` tells of; 0 = unknown.
    """

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    replaces: str = ""
    keeps_tasks: bool = False
    timed: int = 0

    def merge(self, over: Layer) -> None:
        """Put another layer over this one.

        Args:
            over: the other layer.

        Raises:
            ConfigError: an empty `trainable`, which would leave everything as it was.
        """
        if over.values.get("trainable") == {}:
            fix = "for example `trainable: {head: full}`; `trainable.head=frozen` stops one"
            origin = over.origins.get("trainable", "")
            raise ConfigError(
                Problem("trainable", {}, "at least one part that learns", fix, origin)
            )
        for key in (*SWAPPABLE, *_worlds_of_mixture(over.values)):
            old, new = get_value(self.values, key), get_value(over.values, key)
            if not isinstance(old, dict) or not isinstance(new, dict):
                continue
            name = old.get("name", key.rpartition(".")[2])  # a mixture's world: its label
            if key == over.replaces or new.get("name", name) != name:
                set_value(self.values, key, {})
                self._forget(key)
        if isinstance(get_value(over.values, TASKS), dict) and not over.keeps_tasks:
            set_value(self.values, TASKS, {})
            self._forget(TASKS)
        self._merge_dict(self.values, over.values, "", over.origins)
        if "reference_seconds" in over.values:
            self.timed = self.work

    @property
    def work(self) -> int:
        """Samples of a run, steps x batch; 0 where they are no plain numbers."""
        trainer = self.values.get("trainer")
        given = trainer if isinstance(trainer, dict) else {}
        steps = given.get("max_steps", Trainer.max_steps)
        batch = given.get("global_batch_size", Trainer.global_batch_size)
        return steps * batch if type(steps) is int and type(batch) is int else 0

    def _forget(self, key: str) -> None:
        gone = [name for name in self.origins if name == key or name.startswith(f"{key}.")]
        for name in gone:
            del self.origins[name]

    def _merge_dict(
        self, into: dict[str, Any], values: dict[str, Any], prefix: str, origins: dict[str, str]
    ) -> None:
        for key, value in values.items():
            dotted = f"{prefix}{key}"
            if isinstance(value, dict):
                if not isinstance(into.get(key), dict):
                    into[key] = {}
                    self._forget(dotted)
                self._merge_dict(into[key], value, f"{dotted}.", origins)
            else:
                self._forget(dotted)
                into[key] = value
            if dotted in origins:
                self.origins[dotted] = origins[dotted]


def _worlds_of_mixture(values: dict[str, Any]) -> list[str]:
    worlds = get_value(values, WORLDS)
    return [f"{WORLDS}.{label}" for label in worlds] if isinstance(worlds, dict) else []


def get_value(values: dict[str, Any], key: str) -> Any:
    """Return a value by its dotted key, None where there is none.

    Args:
        values: nested values.
        key: the dotted key.
    """
    found: Any = values
    for step in key.split("."):
        found = found.get(step) if isinstance(found, dict) else None
    return found


def set_value(values: dict[str, Any], key: str, value: Any) -> None:
    """Set a value by its dotted key; what is no mapping on the way becomes one.

    Args:
        values: nested values; changed.
        key: the dotted key.
        value: the value.
    """
    *path, last = key.split(".")
    for step in path:
        if not isinstance(values.get(step), dict):
            values[step] = {}
        values = values[step]
    values[last] = value


def leaves_of(values: dict[str, Any], prefix: str = "") -> list[str]:
    """List the dotted keys of all leaves; an empty mapping is one.

    Args:
        values: nested values.
        prefix: goes before each key.
    """
    found: list[str] = []
    for key, value in values.items():
        if isinstance(value, dict) and value:
            found += leaves_of(value, f"{prefix}{key}.")
        else:
            found.append(f"{prefix}{key}")
    return found
