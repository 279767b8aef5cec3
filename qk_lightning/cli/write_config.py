"""`qk config PRESET --write FILE`: a whole configuration with comments, which composes again.

Ancestors that overrides of the command line have changed are written beside it, since a file
can only name a parent that stands somewhere.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from qk_lightning.cli.explain import Option, explanations
from qk_lightning.config.atomic import aside
from qk_lightning.config.chain import StagePlan, plan_chain
from qk_lightning.config.errors import ConfigError, Problem
from qk_lightning.config.paths import preset_roots, user_path
from qk_lightning.config.run_folder import RunFolder

MAX_WIDTH = 100
WAS_DEFAULT = "default"


def write_config(plans: Sequence[StagePlan], file: Path, force: bool = False) -> list[Path]:
    """Write the last stage of a chain, and the ancestors that no file describes.

    Args:
        plans: the chain, first ancestor first.
        file: the YAML file to write.
        force: replace files that stand there.

    Returns:
        The files, first ancestor first; composed again they have the same identities.

    Raises:
        ConfigError: a file stands there, or the name is not that of a YAML file.
    """
    file = user_path(file, "--write").absolute()
    if file.suffix not in (".yaml", ".yml"):
        raise ConfigError(Problem("--write", str(file), "a .yaml file", f"{file.name}.yaml"))
    first = _first_to_write(plans)
    names = [file.with_name(f"{file.stem}_{plan.stage}{file.suffix}") for plan in plans[:-1]]
    targets = [*names, file][first:]
    standing = [str(target) for target in targets if target.exists()]
    if standing and not force:
        fix = "choose another name, or add --force"
        raise ConfigError([Problem("--write", name, "a new file", fix) for name in standing])
    parent: Path | None = None
    for plan, target in zip(plans[first:], targets, strict=True):
        _write(plan, target, parent)
        parent = target
    return targets


def _first_to_write(plans: Sequence[StagePlan]) -> int:
    """Return the place of the first stage that its preset alone does not describe."""
    last = len(plans) - 1
    for place in range(last, 0, -1):
        parent = str(plans[place].cfg.parent)
        if plan_chain(parent)[-1].identity == plans[place - 1].identity:
            return place
    return 0


def _write(plan: StagePlan, target: Path, parent: Path | None) -> None:
    """Write one stage; what does not compose to the same identity never takes its place."""
    text = "\n".join(commented(plan, _name(parent) if parent else None)) + "\n"
    with aside(target) as temporary:
        temporary.write_text(text, encoding="utf-8")
        again = plan_chain(temporary)[-1].identity
        if again != plan.identity:
            raise RuntimeError(f"{target.name} would be {again}, not {plan.identity}")


def _name(file: Path) -> str:
    """Return how a `parent:` finds a file from anywhere."""
    for root in preset_roots():
        if file.resolve().is_relative_to(root):
            return file.resolve().relative_to(root).with_suffix("").as_posix()
    return str(file)


def commented(plan: StagePlan, parent: str | None = None) -> list[str]:
    """Write a stage as YAML with the meaning and the origin of each value.

    Args:
        plan: the stage.
        parent: what to write as its parent in place of the plan's own.

    Returns:
        Lines.
    """
    values: dict[str, Any] = OmegaConf.to_container(plan.cfg, resolve=True)  # type: ignore[assignment]
    if values.get("parent") is not None:
        values["parent"] = parent or _standing_parent(plan)
    head = [
        f"# {plan.cfg.name}: every option, written by `qk config --write`. Behind each value is",
        "# where it came from; a value equal to its default may be taken out.",
        f"# Unchanged it is the run {plan.cfg.name}-{plan.identity}.",
    ]
    return head + _lines(values, "", explanations(plan.cfg), plan.origins)


def _standing_parent(plan: StagePlan) -> str:
    """Return the parent as it is found from any folder."""
    given = str(plan.cfg.parent)
    if plan.parent is None and isinstance(plan.parent_folder, RunFolder):
        return str(plan.parent_folder.path)
    path = Path(given)
    return str(path.absolute()) if path.is_file() else given


def _lines(
    node: Mapping[str, Any], prefix: str, known: Mapping[str, Option], origins: Mapping[str, str]
) -> list[str]:
    indent = "  " * prefix.count(".")
    lines: list[str] = []
    for key, value in node.items():
        dotted = f"{prefix}{key}"
        option = known.get(dotted)
        above = known.get(prefix.rstrip("."))
        doc = option.doc if option and not (above and above.doc == option.doc) else ""
        is_nested = isinstance(value, dict) and bool(value)
        if not prefix and is_nested:
            lines.append("")
        if doc:
            lines += _comment(doc, indent)
        if is_nested:
            lines.append(f"{indent}{key}:")
            lines += _lines(value, f"{dotted}.", known, origins)
        else:
            origin = origins.get(dotted, WAS_DEFAULT)
            lines.append(f"{indent}{key}: {as_yaml(value)}  # {origin}")
    return lines


def _comment(doc: str, indent: str) -> list[str]:
    """Return a meaning as one line of comment, cut where it is long."""
    room = MAX_WIDTH - len(indent) - 2
    text = doc if len(doc) <= room else doc[: room - 4].rsplit(" ", 1)[0] + " ..."
    return [f"{indent}# {text}"]


def as_yaml(value: Any) -> str:
    """Write a value on one line, so that OmegaConf reads the same again.

    Args:
        value: a plain value that is no filled mapping.
    """
    if isinstance(value, list | dict):
        return json.dumps(value)
    return OmegaConf.to_yaml({"v": value}).strip()[2:].strip()
