"""Checking a composed configuration: every problem of it at once, before any weight loads.

Types and defaults come from the sections' dataclasses and from the parts' constructors. Not here:
numbers out of range (ranges.py), options that contradict each other (contradictions.py).
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from qk_lightning.config.contradictions import contradictions
from qk_lightning.config.errors import ConfigError, Problem, did_you_mean, with_article
from qk_lightning.config.examples import example_of
from qk_lightning.config.handover import from_parent_problems
from qk_lightning.config.mixture import MixtureChecker
from qk_lightning.config.ranges import lora_problems, range_problems, top_level_problems
from qk_lightning.config.resume import as_text, resume_problems
from qk_lightning.config.schema import PART_FAMILIES, schema_of
from qk_lightning.config.sections import (
    SECTIONS,
    TOP_LEVEL,
    Lora,
    option_names,
    structured_section,
)

# Options that were found right, by where they are declared and what was given: members of a sweep
# differ in one section or two, and the others would be a fifth of the time that its plan takes.
_RIGHT: dict[tuple[str, ...], dict[str, Any]] = {}


def validate(values: dict[str, Any], origins: Mapping[str, str]) -> DictConfig:
    """Check nested values against the schemas and fill in defaults.

    Args:
        values: the composed values, interpolations resolved.
        origins: where each value came from.

    Returns:
        The configuration with every option present.

    Raises:
        ConfigError: with all problems.
    """
    checker = _Checker(origins)
    checked = checker.check(values)
    if checker.problems:
        raise ConfigError(checker.problems)
    config: DictConfig = OmegaConf.create(checked)
    return config


def checked_part(family: str, node: dict[str, Any], key: str) -> dict[str, Any]:
    """Check the options of one part or world alone and fill in its defaults.

    Args:
        family: `world`, `connector`, ...
        node: its options with `name`.
        key: what the options are called in errors.

    Returns:
        All options.

    Raises:
        ConfigError: with all problems.
    """
    checker = _Checker({})
    part = checker._part(family, node, key)
    if checker.problems or part is None:
        raise ConfigError(checker.problems)
    return part


class _Checker:
    """Gathers problems while it walks a configuration."""

    def __init__(self, origins: Mapping[str, str]) -> None:
        self.origins = origins
        self.problems: list[Problem] = []

    def check(self, values: dict[str, Any]) -> dict[str, Any]:
        """Return the values with defaults filled in; `problems` then holds what is wrong."""
        system = self._part("system", values.get("system"), "system")
        # With an unknown system, only the parts that are given can be checked.
        families = tuple(family for family in PART_FAMILIES if family in values)
        if system is not None:
            families = tuple(
                schema_of("system", system["name"]).attributes.get("families", PART_FAMILIES)
            )
        self._unknown_keys(values, families)
        checked: dict[str, Any] = {}
        for key, (kind, default, _) in TOP_LEVEL.items():
            given = values.get(key, default)
            checked[key] = self._plain(key, as_text(given) if key == "resume" else given, kind)
        self._add_all(top_level_problems(checked))
        checked["system"] = system
        for family in families:
            checked[family] = self._part(family, values.get(family), family)
        for name, section in SECTIONS.items():
            if name in values and values[name] is None:  # it would put back the defaults
                fix = "drop the line, or write its options below it"
                self._add(name, None, f"options, and `{name}:` is empty", fix)
            given = dict(values.get(name) or {}) if self._is_mapping(name, values.get(name)) else {}
            world = given.pop("world", None) if name == "data" else None
            checked[name] = self._section(name, given, section)
            if name == "data":
                checked["data"]["world"] = self._part("world", world, "data.world")
        checked["trainable"] = self._trainable(values.get("trainable"), families)
        taken = values.get("from_parent")
        checked["from_parent"] = dict(taken or {}) if self._is_mapping("from_parent", taken) else {}
        self._add_all(from_parent_problems(values, checked["from_parent"], families))
        self._add_all(range_problems(checked, families))
        self._add_all(contradictions(checked))
        self._add_all(resume_problems(checked))
        return checked

    def _add(self, key: str, value: object, expected: str, fix: str = "") -> None:
        self.problems.append(Problem(key, value, expected, fix, self._origin(key)))

    def _add_all(self, problems: Iterable[Problem]) -> None:
        for problem in problems:
            self._add(problem.key, problem.value, problem.expected, problem.fix)

    def _origin(self, key: str) -> str:
        if key in self.origins:
            return self.origins[key]
        below = [origin for name, origin in self.origins.items() if name.startswith(f"{key}.")]
        return below[0] if below else ""

    def _is_mapping(self, key: str, value: Any) -> bool:
        if value is None or isinstance(value, dict):
            return True
        self._add(key, value, "a section of options", f"write `{key}.<option>=...`")
        return False

    def _unknown_keys(self, values: dict[str, Any], families: tuple[str, ...]) -> None:
        known = {*TOP_LEVEL, *SECTIONS, "system", "trainable", "from_parent", *families}
        leaves = [
            f"{name}.{item}" for name, kind in SECTIONS.items() for item in option_names(kind)
        ]
        for family in families:
            leaves += [f"{family}.{item}" for item in _options_of(family, values.get(family))]
        for key in values:
            if key in known:
                continue
            if key in PART_FAMILIES:
                fix = f"take it out, or use a system that has a {key}"
                self._add(key, None, "only parts that the system uses", fix)
            else:
                names = {leaf.rpartition(".")[2]: leaf for leaf in leaves}
                near = did_you_mean(key, names)
                fix = near if near.startswith("did") else did_you_mean(key, known)
                same = [leaf for leaf in leaves if leaf.endswith((f".{key}", f"_{key}"))]
                fix = f"write {' or '.join(same)}" if same else fix
                self._add(key, values[key], "a known option", fix)

    def _plain(self, key: str, value: Any, kind: type) -> Any:
        default = TOP_LEVEL[key][1]
        if value is None and default is None:
            return None
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if not isinstance(value, kind) or isinstance(value, bool):
            fix = f"write {example_of(kind.__name__)}: {TOP_LEVEL[key][2]}"
            self._add(key, value, f"{kind.__name__}", fix)
        return value

    def _part(self, family: str, node: Any, key: str) -> dict[str, Any] | None:
        if isinstance(node, str):
            node = {"name": node}
        if not isinstance(node, dict) or not isinstance(node.get("name"), str):
            self._add(key, node, f"{with_article(family)} by name", f"write `{key}: {{name: ...}}`")
            return None
        try:
            schema = schema_of(family, node["name"])
        except ConfigError as error:
            for problem in error.problems:
                where = f"{key}.name"
                self._add(where, node["name"], problem.expected, problem.fix)
            return None
        given = {name: value for name, value in node.items() if name != "name"}
        for name in list(given):
            if name in schema.fields and schema.fields[name].wired:
                fix = "take it out: the assembly measures it from the other parts"
                self._add(f"{key}.{name}", given.pop(name), "no value here", fix)
        types = {name: item.type_text for name, item in schema.fields.items()}
        source = (str(schema.file), schema.class_name, repr(schema.defaults))
        part = {"name": node["name"]}
        part |= self._options(key, given, schema.structured, types, source)
        if (option := schema.attributes.get("holds")) is not None:
            check = MixtureChecker(self._part, self._add)
            part |= check.checked(f"{key}.{option}", option, part)
        return part

    def _section(self, key: str, given: dict[str, Any], section: type) -> dict[str, Any]:
        types = {item.name: str(item.type) for item in dataclasses.fields(section)}
        make = partial(structured_section, section)
        return self._options(key, given, make, types, (section.__name__,))

    def _options(
        self,
        key: str,
        given: dict[str, Any],
        make: Callable[[], DictConfig],
        types: dict[str, str],
        source: tuple[str, ...],
    ) -> dict[str, Any]:
        asked = (*source, repr(given))
        if asked in _RIGHT:
            return copy.deepcopy(_RIGHT[asked])
        before, structured = len(self.problems), make()
        known = [str(name) for name in structured]
        for name, value in given.items():
            dotted = f"{key}.{name}"
            if name not in known:
                self._add(dotted, value, f"an option of {key}", did_you_mean(str(name), known))
                continue
            try:
                OmegaConf.update(structured, str(name), value, merge=True)
            except OmegaConfBaseException as error:
                kind = types[str(name)]
                said = example_of(kind) or f"a value that fits ({str(error).splitlines()[0]})"
                self._add(dotted, value, kind, f"write {said}")
        for name in OmegaConf.missing_keys(structured):
            self._add(f"{key}.{name}", None, "a value", f"set `{key}.{name}=...`")
        options = dict(OmegaConf.to_container(structured))  # type: ignore[arg-type]
        if len(self.problems) == before:
            _RIGHT[asked] = copy.deepcopy(options)
        return options

    def _trainable(self, node: Any, families: tuple[str, ...]) -> dict[str, Any]:
        if not self._is_mapping("trainable", node):
            return {}
        checked: dict[str, Any] = {}
        known = len(self.problems)
        for family, value in (node or {}).items():
            key = f"trainable.{family}"
            if family not in families:
                self._add(key, value, "a part of the system", did_you_mean(family, families))
            elif value == "full":
                checked[family] = "full"
            elif isinstance(value, dict) and set(value) == {"lora"}:
                if self._is_mapping(f"{key}.lora", value["lora"]):
                    lora = self._section(f"{key}.lora", value["lora"] or {}, Lora)
                    self._add_all(lora_problems(f"{key}.lora", lora))
                    checked[family] = {"lora": lora}
            elif value not in (None, "frozen"):
                fix = "write `full`, `frozen` or `{lora: {rank: 16}}`"
                self._add(key, value, "how the part is trained", fix)
        if not checked and len(self.problems) == known:
            example = families[0] if families else "head"
            fix = f"for example `trainable: {{{example}: full}}`"
            self._add("trainable", None, "at least one part that learns", fix)
        return checked


def _options_of(family: str, node: Any) -> list[str]:
    """List the options of a part, none where it is not named rightly (which is said elsewhere)."""
    name = node.get("name") if isinstance(node, dict) else node
    try:
        return list(schema_of(family, name).options) if isinstance(name, str) else []
    except ConfigError:
        return []
