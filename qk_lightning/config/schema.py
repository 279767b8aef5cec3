"""The constructor is the schema: options of a part, world or system, read from its source.

Sources are read with `ast` and never imported, so composing and explaining a configuration
takes no torch. Types that are understood: int, float, bool, str, Literal, list of them,
`| None`, dict[str, float], and one nested dataclass of the same file.
"""

from __future__ import annotations

import ast
import copy
import functools
import importlib.util
import re
from dataclasses import MISSING, dataclass, field, make_dataclass
from pathlib import Path
from typing import Any, Literal, Optional

from omegaconf import DictConfig, OmegaConf

from qk_lightning.config.errors import ConfigError, Problem, did_you_mean, with_article
from qk_lightning.config.paths import package_root

FAMILIES = {
    "vlm": "parts/vlms",
    "queries": "parts/queries",
    "connector": "parts/connectors",
    "head": "parts/heads",
    "autoencoder": "parts/autoencoders",
    "objective": "parts/objectives",
    "world": "data/worlds",
    "system": "systems",
}
PART_FAMILIES = ("vlm", "queries", "connector", "head", "autoencoder", "objective")
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


@dataclass(frozen=True)
class Schema:
    """The options of one class.

    Args:
        family: `connector`, `head`, ...
        name: the name in YAML.
        module: the dotted module.
        class_name: the class in it.
        file: the source file.
        doc: the first paragraph of the class docstring.
        fields: its options by name.
        attributes: literal class attributes (`version`, `paths`, `families`, ...).
    """

    family: str
    name: str
    module: str
    class_name: str
    file: Path
    doc: str
    fields: dict[str, Field]
    attributes: dict[str, Any]

    @property
    def options(self) -> dict[str, Field]:
        """The fields that YAML may set."""
        return {name: item for name, item in self.fields.items() if not item.wired}

    def structured(self) -> DictConfig:
        """Build the OmegaConf structured config that checks types."""
        return copy.deepcopy(self._structured)  # a sixth of the time of making it anew

    @functools.cached_property
    def defaults(self) -> dict[str, Any]:
        """The default of each option that has one, nested dataclasses as plain mappings."""
        missing = OmegaConf.missing_keys(self._structured)
        plain = dict(OmegaConf.to_container(self._structured))  # type: ignore[arg-type]
        return {str(name): value for name, value in plain.items() if name not in missing}

    @functools.cached_property
    def _structured(self) -> DictConfig:
        config: DictConfig = OmegaConf.structured(_dataclass_of(self.class_name, self.options))
        return config


def names_of(family: str) -> list[str]:
    """List what a family offers, by its files, without importing any."""
    folder = package_root() / FAMILIES[family]
    found = []
    for file in sorted(folder.glob("*.py")):
        if not file.stem.startswith("_") and _class_named(ast.parse(file.read_text()), file.stem):
            found.append(file.stem)
    return found


@functools.lru_cache(maxsize=256)
def schema_of(family: str, name: str) -> Schema:
    """Read the options of a part, world or system.

    Args:
        family: a key of `FAMILIES`.
        name: a file's name in the family's folder, or `module:Class` outside the package.

    Returns:
        Its schema.

    Raises:
        ConfigError: there is no such file, module or class, or its constructor cannot be read.
    """
    file, module, wanted = _locate(family, name)
    tree = ast.parse(file.read_text(), filename=str(file))
    node = _class_named(tree, wanted)
    if node is None:
        own = [item.name for item in tree.body if isinstance(item, ast.ClassDef)]
        fix = did_you_mean(wanted, own) if own else "write one, or name a module that has one"
        expected = f"a class {wanted!r} in {file}"
        raise ConfigError(Problem(f"{family}.name", name, expected, fix))
    attributes = _class_attributes(node)
    return Schema(
        family=family,
        name=name,
        module=module,
        class_name=node.name,
        file=file,
        doc=(ast.get_docstring(node) or "").split("\n\n")[0],
        fields=_constructor_fields(tree, node, attributes.get("wired", ()), f"{family}.{name}"),
        attributes=attributes,
    )


def _locate(family: str, name: str) -> tuple[Path, str, str]:
    if ":" in name:
        module, _, class_name = name.partition(":")
        try:
            spec = importlib.util.find_spec(module)
        except (ImportError, ValueError):
            spec = None
        # One of the interpreter itself, such as `os`, comes from "frozen" or "built-in".
        if spec is None or not (spec.origin or "").endswith(".py"):
            fix = "install it, or run from the folder that holds it (and put it on PYTHONPATH)"
            expected = f"a module {module!r} with a .py file"
            raise ConfigError(Problem(f"{family}.name", name, expected, fix))
        return Path(str(spec.origin)), module, class_name
    file = package_root() / FAMILIES[family] / f"{name}.py"
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or not file.is_file():
        fix = did_you_mean(name, names_of(family)) + " (or module:Class for a part of your own)"
        raise ConfigError(Problem(f"{family}.name", name, with_article(family), fix))
    folder = FAMILIES[family].replace("/", ".")
    return file, f"qk_lightning.{folder}.{name}", name


def _class_named(tree: ast.Module, name: str) -> ast.ClassDef | None:
    wanted = name.replace("_", "").lower()
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name.replace("_", "").lower() == wanted:
            return node
    return None


def _class_attributes(node: ast.ClassDef) -> dict[str, Any]:
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


def _constructor_fields(
    tree: ast.Module, node: ast.ClassDef, wired: tuple[str, ...], where: str
) -> dict[str, Field]:
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
        nested = _class_named(tree, node.id)
        if nested is not None:
            return _dataclass_of(node.id, _dataclass_fields(tree, nested, where))
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


def _dataclass_of(name: str, fields: dict[str, Field]) -> type:
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
