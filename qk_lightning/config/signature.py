"""Options read from the source of a class, its constructor's arguments and their docstring.

Nothing is imported. Types that are understood: int, float, bool, str, Literal, list of them,
`| None`, dict[str, float], and one nested dataclass of the same file.
"""

from __future__ import annotations

import ast
import copy
import functools
import re
from dataclasses import MISSING, dataclass, field, make_dataclass
from typing import Any, Literal, Optional

from qk_lightning.config.errors import ConfigError, Problem

_TYPES = {"int": int, "float": float, "bool": bool, "str": str, "Literal": Literal}
_TYPES |= {"list": list, "dict": dict, "None": None, "Any": Any}


@dataclass(frozen=True)
class Field:
    """One option.

    Args:
        name: the option.
        type_text: its annotation as written.
        type: the annotation as OmegaConf understands it.
        default: the default value; `dataclasses.MISSING` where one must be given.
        doc: its text in the docstring.
        wired: given by the assembly, so an error in YAML.
    """

    name: str
    type_text: str
    type: Any
    default: Any
    doc: str
    wired: bool


def class_named(tree: ast.Module, name: str) -> ast.ClassDef | None:
    """Find a class, however its name is written.

    Args:
        tree: the source.
        name: as in `EncProj` or `enc_proj`.

    Returns:
        The class, None where the source has none.
    """
    wanted = name.replace("_", "").lower()
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name.replace("_", "").lower() == wanted:
            return node
    return None


def class_attributes(node: ast.ClassDef) -> dict[str, Any]:
    """Read the class attributes that are literals.

    Args:
        node: the class.

    Returns:
        Value by name.
    """
    found: dict[str, Any] = {}
    for item in node.body:
        if isinstance(item, ast.Assign):
            target: ast.expr = item.targets[0]
        elif isinstance(item, ast.AnnAssign):
            target = item.target
        else:
            continue
        if isinstance(target, ast.Name) and item.value is not None:
            try:
                found[target.id] = ast.literal_eval(item.value)
            except ValueError:
                continue
    return found


def constructor_fields(
    tree: ast.Module, node: ast.ClassDef, wired: tuple[str, ...], where: str
) -> dict[str, Field]:
    """Read the arguments of a class's constructor.

    Args:
        tree: the source.
        node: the class.
        wired: arguments that the assembly gives.
        where: names the class in errors.

    Returns:
        Field by name.

    Raises:
        ConfigError: an argument is not keyword-only, or of a type that YAML cannot hold.
    """
    functions = [item for item in node.body if isinstance(item, ast.FunctionDef)]
    constructor = next((item for item in functions if item.name == "__init__"), None)
    docs = argument_docs(ast.get_docstring(node) or "")
    if constructor is None:
        return {}
    arguments = constructor.args
    if len(arguments.args) > 1 or arguments.vararg or arguments.kwarg:
        fix = "write `def __init__(self, *, option: type = default)`"
        raise ConfigError(Problem(where, None, "a constructor with keyword-only arguments", fix))
    fields = {}
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        is_wired = argument.arg in wired
        text = ast.unparse(argument.annotation) if argument.annotation else ""
        kind = (
            Any
            if is_wired
            else _evaluate_type(tree, argument.annotation, f"{where}.{argument.arg}")
        )
        fields[argument.arg] = Field(
            name=argument.arg,
            type_text=text,
            type=kind,
            default=_evaluate_default(default),
            doc=docs.get(argument.arg, ""),
            wired=is_wired,
        )
    return fields


def _evaluate_default(node: ast.expr | None) -> Any:
    if node is None:
        return MISSING
    if isinstance(node, ast.Call):  # `Guidance()`: a nested dataclass at its own defaults
        return {}
    value = ast.literal_eval(node)
    return list(value) if isinstance(value, tuple) else value


def _evaluate_type(tree: ast.Module, node: ast.expr | None, where: str) -> Any:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        sides = [_evaluate_type(tree, side, where) for side in (node.left, node.right)]
        kinds = [side for side in sides if side is not None]
        if len(kinds) == 1:
            return Optional[kinds[0]]  # noqa: UP045 - built at run time for OmegaConf
        node = None
    if isinstance(node, ast.Name) and node.id not in _TYPES:
        nested = class_named(tree, node.id)
        if nested is not None:
            return dataclass_of(node.id, _dataclass_fields(tree, nested, where))
        node = None
    if node is None:
        fix = "use int, float, bool, str, Literal, list, X | None or a dataclass of the same file"
        raise ConfigError(Problem(where, None, "a type that YAML can hold", fix))
    return eval(compile(ast.Expression(node), "<annotation>", "eval"), {"__builtins__": {}}, _TYPES)  # noqa: S307


def _dataclass_fields(tree: ast.Module, node: ast.ClassDef, where: str) -> dict[str, Field]:
    docs = argument_docs(ast.get_docstring(node) or "")
    fields = {}
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            name = item.target.id
            kind = _evaluate_type(tree, item.annotation, f"{where}.{name}")
            text = ast.unparse(item.annotation)
            default = _evaluate_default(item.value)
            fields[name] = Field(name, text, kind, default, docs.get(name, ""), wired=False)
    return fields


def dataclass_of(name: str, fields: dict[str, Field]) -> type:
    """Make a dataclass of options, which OmegaConf takes as a structured config.

    Args:
        name: of the dataclass.
        fields: its options.

    Returns:
        The class; an option that must be given has OmegaConf's "???" for a default.
    """
    items: list[tuple[str, Any, Any]] = []
    for item in fields.values():
        if item.default is MISSING:
            default: Any = field(default="???")
        elif isinstance(item.default, dict) and isinstance(item.type, type):
            default = field(default_factory=item.type)  # a nested dataclass at its own defaults
        elif isinstance(item.default, (list, dict)):
            default = field(default_factory=functools.partial(copy.copy, item.default))
        else:
            default = field(default=item.default)
        items.append((item.name, item.type, default))
    return make_dataclass(name, items)


def argument_docs(docstring: str) -> dict[str, str]:
    """Read the `Args:` section of a Google-style docstring.

    Args:
        docstring: the text.

    Returns:
        One line of text by argument name.
    """
    match = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)+)", docstring, flags=re.MULTILINE)
    if match is None:
        return {}
    docs: dict[str, list[str]] = {}
    name = ""
    for line in match.group(1).splitlines():
        entry = re.match(r"^ {4}(\w+)(?: \([^)]*\))?: (.*)$", line)
        if entry:
            name = entry.group(1)
            docs[name] = [entry.group(2)]
        elif name and line.strip():
            docs[name].append(line.strip())
    return {key: " ".join(lines) for key, lines in docs.items()}
