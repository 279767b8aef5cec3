"""`qk config --explain KEY`: what an option means, its type, default and value, and who reads it.

Options are found where they are declared: sections, constructors of parts and worlds, and the
few mappings whose keys are parts. No torch.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING
from typing import Any

from omegaconf import DictConfig, OmegaConf

from qk_lightning.cli.readers_of import readers_of
from qk_lightning.config.arguments import check_text
from qk_lightning.config.chain import CHAIN_WIDE
from qk_lightning.config.errors import ConfigError, Problem, did_you_mean
from qk_lightning.config.layers import full_key
from qk_lightning.config.mixture import WEIGHT
from qk_lightning.config.schema import PART_FAMILIES, Schema, names_of, schema_of
from qk_lightning.config.sections import NOT_IN_IDENTITY, RANGES, SECTIONS, TOP_LEVEL, Lora
from qk_lightning.config.signature import argument_docs

TRAINABLE = (
    "what learns, by part: `full`, `frozen`, or `{lora: {rank, alpha, targets}}`; "
    "a part that is not named stays frozen"
)
FROM_PARENT = (
    "what is taken over from the parent, by part: `load` (as it was left), `merge` "
    "(with its LoRA merged), `new` (its own `path`, else random)"
)
TRAINABLE_READER = ("assembly/trainable.py",)
FROM_PARENT_READER = ("assembly/weights.py",)


@dataclasses.dataclass(frozen=True)
class Option:
    """One key of a configuration, explained.

    Args:
        key: the dotted key.
        doc: what it means.
        type_text: its type as written; "" for a section or a part.
        default: its default; `dataclasses.MISSING` where one must be given.
        now: the present value.
        more: further lines, such as the options of a section.
        readers: finds who reads it, when it is asked for.
    """

    key: str
    doc: str
    type_text: str = ""
    default: Any = None
    now: Any = None
    more: tuple[str, ...] = ()
    readers: Callable[[], list[str]] = list

    def describe(self) -> str:
        """Write all of it."""
        head = self.key
        if self.type_text:
            default = "must be given" if self.default is MISSING else shown(self.default)
            head += f": {self.type_text} = {default}"
        lines = [head, f"  {self.doc}" if self.doc else "", *(f"  {line}" for line in self.more)]
        if self.type_text:
            lines.append(f"  now: {shown(self.now)}")
            lines.append(f"  {_reach(self.key)}")
        if readers := self.readers():
            lines.append(f"  read by: {', '.join(readers)}")
        return "\n".join(line for line in lines if line)


def explain(cfg: DictConfig, key: str) -> str:
    """Explain one option: meaning, type, default, present value, and who reads it.

    Args:
        cfg: the resolved configuration, whose parts say which options there are.
        key: a dotted key, a section or a part family; `num_queries` will do where it is one key.

    Returns:
        Text.

    Raises:
        ConfigError: there is no such option, or several.
    """
    check_text("key", key, "connector.num_layers")
    known = explanations(cfg)
    key = full_key(key.removeprefix(f"{cfg.stage}.").removeprefix("all."))
    if key in known:
        return known[key].describe()
    ends = [name for name in known if name.endswith(f".{key}")]
    if len(ends) == 1:
        return known[ends[0]].describe()
    raise ConfigError(Problem("--explain", key, "an option", _nearest(key, ends, known)))


def _nearest(key: str, ends: list[str], known: Mapping[str, Option]) -> str:
    if ends:
        return f"write one of: {', '.join(ends[:8])}"
    near = did_you_mean(key, known)
    if near.startswith("did"):
        return near
    last = key.rpartition(".")[2]
    by_last = {name.rpartition(".")[2]: name for name in known}
    near = did_you_mean(last, by_last)
    if near.startswith("did"):
        return f"did you mean {by_last[near.split(chr(39))[1]]!r}?"
    while "." in key:
        key = key.rpartition(".")[0]
        if key in known:
            inside = [name for name in known if name.startswith(f"{key}.")]
            return f"of {key} there are: {', '.join(inside[:24])}" if inside else f"{key} has none"
    return f"known: {', '.join(name for name in known if '.' not in name)}"


def explanations(cfg: DictConfig) -> dict[str, Option]:
    """Explain everything that can be set beside this configuration.

    Args:
        cfg: a resolved configuration.

    Returns:
        The explained option by dotted key.
    """
    options = [*_top_level(cfg), *_sections(cfg), *_trainable(cfg), *_from_parent(cfg)]
    for family in (*PART_FAMILIES, "system"):
        if cfg.get(family) is not None:
            options += _part(family, family, cfg[family])
    options += _part("data.world", "world", cfg.data.world)
    return {option.key: option for option in options}


def _top_level(cfg: DictConfig) -> Iterator[Option]:
    for name, (kind, default, text) in TOP_LEVEL.items():
        find = _finder("", name)
        yield Option(name, text, kind.__name__, default, cfg.get(name), (), find)


def _sections(cfg: DictConfig) -> Iterator[Option]:
    for name, section in SECTIONS.items():
        doc = inspect.cleandoc(section.__doc__ or "")
        docs, defaults = argument_docs(doc), OmegaConf.structured(section)
        names = [item.name for item in dataclasses.fields(section)]
        yield Option(name, doc.splitlines()[0], more=(f"options: {', '.join(names)}",))
        for item in dataclasses.fields(section):
            key, value = f"{name}.{item.name}", _plain(cfg[name][item.name])
            more, find = _range(key), _finder(name, item.name)
            default = _plain(defaults[item.name])
            text = docs.get(item.name, "")
            yield Option(key, text, str(item.type), default, value, more, find)
            for inner in value if isinstance(value, dict) else ():
                yield Option(f"{key}.{inner}", text, "float", MISSING, value[inner], more, find)


def _range(key: str) -> tuple[str, ...]:
    if key not in RANGES:
        return ()
    low, high = RANGES[key]
    return (f"from {low:g}" + ("" if high == math.inf else f" to {high:g}"),)


def _trainable(cfg: DictConfig) -> Iterator[Option]:
    yield Option(
        "trainable", TRAINABLE, "dict", {}, _plain(cfg.trainable), (), _files(TRAINABLE_READER)
    )
    docs = argument_docs(inspect.cleandoc(Lora.__doc__ or ""))
    defaults = OmegaConf.structured(Lora)
    for family in _families(cfg):
        how = _plain(cfg.trainable.get(family, "frozen"))
        find, key = _files(TRAINABLE_READER), f"trainable.{family}"
        yield Option(key, TRAINABLE, "full | frozen | {lora: ...}", "frozen", how, (), find)
        lora = how["lora"] if isinstance(how, dict) else {}
        texts = [f"{option}: {text}" for option, text in docs.items()]
        doc = (Lora.__doc__ or "").splitlines()[0]
        yield Option(f"{key}.lora", doc, "dict", {}, lora or None, tuple(texts), find)
        for item in dataclasses.fields(Lora):
            now, default = lora.get(item.name), _plain(defaults[item.name])
            name, text = f"{key}.lora.{item.name}", docs[item.name]
            yield Option(name, text, str(item.type), default, now, (), find)


def _from_parent(cfg: DictConfig) -> Iterator[Option]:
    find = _files(FROM_PARENT_READER)
    yield Option("from_parent", FROM_PARENT, "dict", {}, _plain(cfg.from_parent), (), find)
    for family in _families(cfg):
        now = cfg.from_parent.get(family)
        yield Option(
            f"from_parent.{family}", FROM_PARENT, "load | merge | new", MISSING, now, (), find
        )


def _families(cfg: DictConfig) -> list[str]:
    return [family for family in PART_FAMILIES if cfg.get(family) is not None]


def _part(key: str, family: str, node: DictConfig) -> Iterator[Option]:
    """Explain a part, its options, and the worlds that it holds."""
    schema = schema_of(family, node.name)
    options = ", ".join(schema.options) or "none"
    others = ", ".join(names_of(family))
    more = (f"options: {options}", f"to choose from: {others}; now: {node.name}")
    find = _files((f"{schema.class_name} ({schema.module})",))
    yield Option(key, schema.doc, more=more, readers=find)
    doc = f"one of {others}; or `module:Class` of your own"
    yield Option(f"{key}.name", doc, "str", MISSING, node.name, (), find)
    for name, item in schema.options.items():
        now = _plain(node[name])
        default = _nested_default(schema, name) if item.default == {} else item.default
        yield Option(f"{key}.{name}", item.doc, item.type_text, default, now, (), find)
        if schema.attributes.get("holds") == name:
            yield from _held(f"{key}.{name}", node[name])
        elif isinstance(now, dict):
            for inner, value in now.items():
                yield Option(f"{key}.{name}.{inner}", item.doc, "", None, value, (), find)


def _nested_default(schema: Schema, name: str) -> Any:
    return _plain(schema.structured()[name])


def _held(key: str, worlds: DictConfig) -> Iterator[Option]:
    """Explain the worlds of a mixture."""
    find = _files(("data/worlds/mixture.py",))
    for label, node in worlds.items():
        yield from _part(f"{key}.{label}", "world", node)
        text = "how often this world is drawn, against the others; 0 = off"
        yield Option(f"{key}.{label}.{WEIGHT}", text, "float", 1.0, node[WEIGHT], (), find)


def _finder(section: str, name: str) -> Callable[[], list[str]]:
    return lambda: readers_of(section, name)


def _files(names: tuple[str, ...]) -> Callable[[], list[str]]:
    return lambda: list(names)


def _reach(key: str) -> str:
    """Say what a change of an option leads to."""
    wide = any(key == name or key.startswith(f"{name}.") for name in CHAIN_WIDE)
    apart = any(key == name or key.startswith(f"{name}.") for name in NOT_IN_IDENTITY)
    where = "reaches every stage of the chain" if wide else "reaches the named stage"
    return f"{where}; {'no part' if apart else 'part'} of a run's identity"


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def shown(value: Any) -> str:
    """Write a value as YAML writes it on one line.

    Args:
        value: a plain value.
    """
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
