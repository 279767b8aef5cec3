"""Which lines of the package read an option of a section: found in the source, never imported."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from qk_lightning.config.paths import package_root

ROOTS = ("cfg", "config")
MAX_SHOWN = 6


def readers_of(section: str, option: str) -> list[str]:
    """Find who reads an option: `cfg.<section>.<option>`, also through a name for the section.

    Args:
        section: a section such as `optimizer`; "" for an option at the top.
        option: the option.

    Returns:
        `file:line` inside the package, the first few; [] where none is found.
    """
    package = package_root()
    found: list[str] = []
    for file in sorted(package.rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        if f".{option}" not in text or (section and f".{section}" not in text):
            continue
        lines = sorted(set(_lines(ast.parse(text), section, option)))
        found += [f"{file.relative_to(package).as_posix()}:{line}" for line in lines]
    more = [f"and {len(found) - MAX_SHOWN} more"] if len(found) > MAX_SHOWN else []
    return found[:MAX_SHOWN] + more


def _lines(tree: ast.Module, section: str, option: str) -> Iterator[int]:
    for scope in ast.walk(tree):
        if not isinstance(scope, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        names = set(_names_of(scope, section)) if section else set(ROOTS)
        for node in ast.walk(scope):
            if not isinstance(node, ast.Attribute) or node.attr != option:
                continue
            owner = node.value
            is_named = isinstance(owner, ast.Name) and owner.id in names
            wanted = (section,) if section else ROOTS
            if is_named or (isinstance(owner, ast.Attribute) and owner.attr in wanted):
                yield node.lineno


def _names_of(scope: ast.AST, section: str) -> Iterator[str]:
    """Yield the local names that a function gives to a section."""
    for node in ast.walk(scope):
        if not isinstance(node, ast.Assign):
            continue
        target, value = node.targets[0], node.value
        pairs = [(target, value)]
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            pairs = list(zip(target.elts, value.elts, strict=False))
        for name, given in pairs:
            is_section = isinstance(given, ast.Attribute) and given.attr == section
            if isinstance(name, ast.Name) and is_section:
                yield name.id
