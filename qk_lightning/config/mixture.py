"""Checking a mixture's worlds: each against its own constructor, all of one picture size.

A class with an attribute `holds` names the option whose values are worlds by label, each with a
`weight` beside its own options.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from qk_lightning.config.errors import ConfigError, did_you_mean
from qk_lightning.config.schema import schema_of

WEIGHT = "weight"
SIZE = "size"


class MixtureChecker:
    """Fills in the worlds of a mixture and says what is wrong with them.

    Args:
        part: checks one part: (family, node, key) to its options, None if it cannot be read.
        add: notes a problem: (key, value, expected, fix).
    """

    def __init__(
        self,
        part: Callable[[str, Any, str], dict[str, Any] | None],
        add: Callable[[str, object, str, str], None],
    ) -> None:
        self.part = part
        self.add = add

    def checked(self, key: str, option: str, mixture: dict[str, Any]) -> dict[str, Any]:
        """Check the worlds and agree on a size.

        Args:
            key: the option's key, `data.world.worlds`.
            option: its name in the mixture.
            mixture: the mixture's own options.

        Returns:
            `{option: worlds, "size": size}` with every option of every world.
        """
        given = mixture.get(option)
        nodes: dict[str, dict[str, Any]] = {}
        for label, node in (given if isinstance(given, dict) else {}).items():
            if (full := self._node(f"{key}.{label}", str(label), node)) is not None:
                nodes[str(label)] = full
        size = mixture.get(SIZE)
        said = [node.get(SIZE) for node in nodes.values() if node[WEIGHT]]
        size = next((n for n in (size, *said) if isinstance(n, int)), None)
        worlds: dict[str, Any] = {}
        for label, node in nodes.items():
            weight = node.pop(WEIGHT)
            if size is not None and SIZE in _options(node["name"]):
                node = {SIZE: size, **node}
            checked = self.part("world", node, f"{key}.{label}")
            if checked is not None:
                worlds[label] = {**checked, WEIGHT: weight}
        on = {label: node for label, node in worlds.items() if node[WEIGHT]}
        if not on and isinstance(given, dict) and len(worlds) == len(given):
            fix = f"for example {key}.{next(iter(worlds), 'avatars')}.{WEIGHT}=1"
            self.add(key, None, "at least one world with a weight above 0", fix)
        return {option: worlds, SIZE: self._one_size(key, size, on)}

    def _one_size(self, key: str, size: int | None, worlds: dict[str, Any]) -> int | None:
        """Return the picture size of all worlds; a problem for each that has another."""
        sizes = {label: node[SIZE] for label, node in worlds.items() if SIZE in node}
        size = next(iter(sizes.values()), None) if size is None else size
        for label, found in sizes.items():
            if found != size:
                fix = f"set {key.rpartition('.')[0]}.{SIZE} and no {SIZE} in its worlds"
                expected = f"{size}: all worlds of a mixture have one picture size"
                self.add(f"{key}.{label}.{SIZE}", found, expected, fix)
        return size

    def _node(self, key: str, label: str, node: Any) -> dict[str, Any] | None:
        """Return a world's options with name and weight, None where they cannot be."""
        if not re.fullmatch(r"[A-Za-z]\w*", label):
            self.add(key, None, "a label of letters, digits and _", "choose another label")
            return None
        if isinstance(node, str):
            node = {"name": node}
        if not isinstance(node, dict | None):
            fix = f"write `{key}: {{{WEIGHT}: 1}}`, or set {key}.{WEIGHT}"
            self.add(key, node, "the options of a world", fix)
            return None
        node = {"name": label, WEIGHT: 1.0, **(node or {})}
        known = [WEIGHT, "name", *_options(node["name"])]
        for name in [name for name in node if name not in known]:
            if (fix := did_you_mean(str(name), known)) == f"did you mean {WEIGHT!r}?":
                self.add(f"{key}.{name}", node.pop(name), f"an option of {key}", fix)
        weight = node[WEIGHT]
        is_number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not is_number or not 0 <= weight < math.inf:
            self.add(f"{key}.{WEIGHT}", weight, "a finite number from 0", "0 = off")
            weight = 1.0
        if _holds_worlds(node["name"]):
            fix = "put its worlds beside the others"
            self.add(f"{key}.name", node["name"], "a world that is no mixture itself", fix)
            return None
        return {**node, WEIGHT: float(weight)}


def _options(name: Any) -> list[str]:
    try:
        return list(schema_of("world", name).options) if isinstance(name, str) else []
    except ConfigError:
        return []


def _holds_worlds(name: Any) -> bool:
    try:
        return isinstance(name, str) and "holds" in schema_of("world", name).attributes
    except ConfigError:
        return False
