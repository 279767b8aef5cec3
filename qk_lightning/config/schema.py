"""The constructor is the schema: options of a part, world or system, read from its source.

Sources are read with `ast` and never imported, so composing and explaining a configuration
takes no torch. How a source is read: signature.py.
"""

from __future__ import annotations

import ast
import copy
import functools
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from qk_lightning.config.errors import ConfigError, Problem, did_you_mean, with_article
from qk_lightning.config.paths import package_root
from qk_lightning.config.signature import (
    Field,
    class_attributes,
    class_named,
    constructor_fields,
    dataclass_of,
)

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
        config: DictConfig = OmegaConf.structured(dataclass_of(self.class_name, self.options))
        return config


def names_of(family: str) -> list[str]:
    """List what a family offers, by its files, without importing any."""
    folder = package_root() / FAMILIES[family]
    found = []
    for file in sorted(folder.glob("*.py")):
        if not file.stem.startswith("_") and _has_own_class(file, file.stat().st_mtime_ns):
            found.append(file.stem)
    return found


@functools.lru_cache(maxsize=256)
def _has_own_class(file: Path, changed: int) -> bool:
    """Tell whether a file has the class that it is named for; kept, for each takes milliseconds."""
    return class_named(ast.parse(file.read_text()), file.stem) is not None


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
    node = class_named(tree, wanted)
    if node is None:
        own = [item.name for item in tree.body if isinstance(item, ast.ClassDef)]
        fix = did_you_mean(wanted, own) if own else "write one, or name a module that has one"
        expected = f"a class {wanted!r} in {file}"
        raise ConfigError(Problem(f"{family}.name", name, expected, fix))
    attributes = class_attributes(node)
    return Schema(
        family=family,
        name=name,
        module=module,
        class_name=node.name,
        file=file,
        doc=(ast.get_docstring(node) or "").split("\n\n")[0],
        fields=constructor_fields(tree, node, attributes.get("wired", ()), f"{family}.{name}"),
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
