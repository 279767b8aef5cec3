"""`qk config`: a resolved configuration with origins, an option explained, or a dry run."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
from dataclasses import MISSING
from typing import Any

from omegaconf import DictConfig, OmegaConf

from qk_lightning.config.chain import plan_chain
from qk_lightning.config.errors import ConfigError, Problem, did_you_mean
from qk_lightning.config.layers import full_key
from qk_lightning.config.schema import PART_FAMILIES, argument_docs, names_of, schema_of
from qk_lightning.config.sections import SECTIONS, TOP_LEVEL, option_names

MAPPINGS = {
    "trainable": "what learns, by part: `full`, `frozen`, or `{lora: {rank, alpha, targets}}`; "
    "a part that is not named stays frozen",
    "from_parent": "what is taken over from the parent, by part: `load` (as it was left), `merge` "
    "(with its LoRA merged), `new` (its own `path`, else random)",
}


def config(options: argparse.Namespace) -> int:
    """Print what `qk config` is asked for.

    Args:
        options: the parsed command line.

    Returns:
        0.
    """
    plan = plan_chain(options.preset, options.overrides)[-1]
    if options.explain:
        print(explain(plan.cfg, options.explain))
    elif options.dry_run:
        from qk_lightning.assembly.dry_run import dry_run

        print(f"{plan.folder.name}: {plan.cfg.system.name}\n")
        print(dry_run(plan.cfg).describe())
    else:
        print("\n".join(lines_with_origins(plan.cfg, plan.origins)))
        print(f"\n# identity {plan.identity}, run folder {plan.folder.path}")
    return 0


def lines_with_origins(cfg: DictConfig, origins: dict[str, str]) -> list[str]:
    """Write a configuration as YAML with the origin of each value as a comment.

    Args:
        cfg: the resolved configuration.
        origins: origin by dotted key.

    Returns:
        Lines.
    """
    lines: list[tuple[str, str]] = []
    _walk(OmegaConf.to_container(cfg), "", 0, origins, lines)
    width = min(56, max(len(text) for text, _ in lines))
    return [f"{text:<{width}}  # {origin}" if origin else text for text, origin in lines]


def _walk(
    node: Any, prefix: str, depth: int, origins: dict[str, str], lines: list[tuple[str, str]]
) -> None:
    for key, value in node.items():
        dotted = f"{prefix}{key}"
        indent = "  " * depth
        if isinstance(value, dict) and value:
            lines.append((f"{indent}{key}:", ""))
            _walk(value, f"{dotted}.", depth + 1, origins, lines)
        else:
            shown = OmegaConf.to_yaml({"v": value}, resolve=False).strip()[2:].strip()
            text = str(value) if isinstance(value, list) else shown
            lines.append((f"{indent}{key}: {text}", origins.get(dotted, "default")))


def explain(cfg: DictConfig, key: str) -> str:
    """Explain one option: meaning, type, default, present value, and who reads it.

    Args:
        cfg: the resolved configuration, whose parts say which options there are.
        key: a dotted key, a section or a part family.

    Returns:
        Text.

    Raises:
        ConfigError: there is no such option.
    """
    known = _explained(cfg)
    key = full_key(key.removeprefix(f"{cfg.stage}.").removeprefix("all."))
    if key not in known:
        raise ConfigError(Problem("--explain", key, "an option", did_you_mean(key, known)))
    return known[key]


def _explained(cfg: DictConfig) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, (kind, default, text) in TOP_LEVEL.items():
        found[name] = f"{name}: {kind.__name__} = {default}\n  {text}\n  now: {cfg.get(name)}"
    for name, section in SECTIONS.items():
        docs = argument_docs(inspect.cleandoc(section.__doc__ or ""))
        options = ", ".join(option_names(section))
        found[name] = f"{name}: {(section.__doc__ or '').splitlines()[0]}\n  options: {options}"
        defaults = OmegaConf.structured(section)
        for item in dataclasses.fields(section):
            option = item.name
            found[f"{name}.{option}"] = (
                f"{name}.{option}: {item.type} = {defaults[option]}\n  {docs.get(option, '')}\n"
                f"  now: {cfg[name][option]}\n  read by: the {name} section ({section.__module__})"
            )
    for name, text in MAPPINGS.items():
        found[name] = f"{name}: {text}\n  now: {OmegaConf.to_container(cfg[name])}"
        found |= {f"{name}.{family}": found[name] for family in PART_FAMILIES}
    nodes = {family: cfg.get(family) for family in (*PART_FAMILIES, "system")}
    nodes["data.world"] = cfg.data.world
    for key, node in nodes.items():
        if node is None:
            continue
        schema = schema_of(key.split(".")[-1], node.name)
        options = ", ".join(schema.options) or "none"
        found[key] = f"{key}: {schema.class_name} ({schema.module})\n  {schema.doc}\n"
        found[key] += f"  options: {options}\n  others: {', '.join(names_of(key.split('.')[-1]))}"
        found[f"{key}.name"] = found[key]
        for option, item in schema.options.items():
            default = "must be given" if item.default is MISSING else item.default
            found[f"{key}.{option}"] = (
                f"{key}.{option}: {item.type_text} = {default}\n  {item.doc}\n"
                f"  now: {node[option]}\n  read by: {schema.class_name} ({schema.module})"
            )
    return found
