"""Reading layers: a preset with what its `defaults:` name, and overrides of the command line.

Not here: how layers are merged (`layer.py`), checking (`validate.py`).
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from qk_lightning.config.errors import ConfigError, Problem
from qk_lightning.config.layer import SWAPPABLE, TASKS, Layer, leaves_of, set_value
from qk_lightning.config.paths import find_preset, preset_roots, project_root
from qk_lightning.config.schema import PART_FAMILIES
from qk_lightning.config.sections import SECTIONS, TOP_LEVEL, option_names

COMMAND_LINE = "command line"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
LARGEST = 10**100  # no whole number of ours comes near it; beyond 10^308 it is no float


def load_layers(preset: str | Path) -> tuple[Layer, list[Path]]:
    """Load a preset and, before it, everything its `defaults:` name.

    Args:
        preset: a preset's name or a file.

    Returns:
        The merged layer and the files in the order they were merged.
    """
    merged, files = Layer(), []
    for file, layer in _collect(find_preset(preset), ()):
        merged.merge(layer)
        files.append(file)
    return merged, files


def _collect(file: Path, open_files: tuple[Path, ...]) -> list[tuple[Path, Layer]]:
    if file in open_files:
        cycle = " -> ".join(_short(item) for item in (*open_files, file))
        fix = "take one of them out of `defaults:`"
        raise ConfigError(Problem("defaults", _short(file), f"no cycle, found {cycle}", fix))
    layer = read_layer(file)
    defaults = layer.values.pop("defaults", [])
    layer.origins.pop("defaults", None)
    if isinstance(defaults, str):
        defaults = [defaults]
    if not isinstance(defaults, list):
        fix = "write `defaults: [laptop/base, connector/enc_proj]`"
        raise ConfigError(Problem("defaults", defaults, "a list of presets", fix, _short(file)))
    collected: list[tuple[Path, Layer]] = []
    for name in defaults:
        parent = _find_default(str(name), file)
        collected += _collect(parent, (*open_files, file))
    return [*collected, (file, layer)]


def _find_default(name: str, file: Path) -> Path:
    try:
        return find_preset(name, near=file)
    except ConfigError as error:
        fix = error.problems[0].fix
        problem = Problem("defaults", name, "a preset that exists", fix, _short(file))
        raise ConfigError(problem) from error


def read_layer(file: Path) -> Layer:
    """Read one YAML file with the line of each leaf.

    Args:
        file: the file.

    Returns:
        Its values and their origins.

    Raises:
        ConfigError: the file is not YAML, or not a mapping.
    """
    cached = _read_layer(file, file.stat().st_mtime_ns, project_root())
    return Layer(copy.deepcopy(cached.values), dict(cached.origins))


@functools.lru_cache(maxsize=256)
def _read_layer(file: Path, stamp: int, root: Path) -> Layer:
    del stamp, root  # keys only: a sweep reads the same files for each of its members
    try:
        text = file.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=_LOADER)
        values = OmegaConf.to_container(OmegaConf.create(text)) if text.strip() else {}
    # The last two: bytes that are no text, and an anchor that holds itself.
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{_short(file)}:{mark.line + 1}" if mark else _short(file)
        reason = str(getattr(error, "problem", None) or error).splitlines()[0]
        fix = "mend that line" if mark else "write it anew as text in UTF-8"
        if "cannot start any token" in reason and "\t" in text:
            fix = "put spaces in place of the tab: YAML indents by spaces alone"
        raise ConfigError(Problem(where, None, f"YAML ({reason})", fix)) from error
    except ValueError as error:  # Python reads no whole number of thousands of digits
        problem = Problem(_short(file), None, "numbers below 10^100", "write shorter ones")
        raise ConfigError(problem) from error
    if not isinstance(values, dict):
        fix = "write `key: value` lines"
        raise ConfigError(Problem(_short(file), None, "a mapping of options", fix))
    origins: dict[str, str] = {}
    if isinstance(node, yaml.MappingNode):
        _mark(node, "", _short(file), origins)
    _check_numbers(values, _short(file))
    return Layer({str(key): value for key, value in values.items()}, origins)


def _mark(node: yaml.MappingNode, prefix: str, file: str, origins: dict[str, str]) -> None:
    for key, value in node.value:
        dotted = f"{prefix}{key.value}"
        if isinstance(value, yaml.MappingNode) and value.value:
            _mark(value, f"{dotted}.", file, origins)
        else:
            origins[dotted] = f"{file}:{key.start_mark.line + 1}"


def override_layer(text: str) -> Layer:
    """Turn one `key=value` of the command line into a layer.

    `connector=enc_proj` loads `experiments/connector/enc_proj.yaml` where there is one.

    Args:
        text: the override.

    Returns:
        The layer.

    Raises:
        ConfigError: it has no `=`, or its value is not YAML.
    """
    key, equals, raw = text.partition("=")
    if not equals or not all(step.strip() for step in key.split(".")):
        raise ConfigError(Problem(text, None, "key=value", "for example trainer.max_steps=20"))
    key = full_key(key.strip())
    try:
        value = copy.deepcopy(_value_of(raw))
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(Problem(key, raw, "a YAML value", "quote it")) from error
    except ValueError as error:  # Python reads no whole number of thousands of digits
        raise ConfigError(
            Problem(key, None, f"a number ({error})", "write a shorter one")
        ) from error
    if key in SWAPPABLE and isinstance(value, str):
        family = key.split(".")[-1]
        file = _part_file(family, value)
        if file is not None:
            return dataclasses.replace(load_layers(file)[0], replaces=key)
        value = {"name": value}
    values: dict[str, Any] = {}
    set_value(values, key, value)
    _check_numbers(values, "")
    origins = dict.fromkeys(leaves_of(values), COMMAND_LINE)
    return Layer(values, origins, keeps_tasks=key.startswith(f"{TASKS}."))


@functools.lru_cache(maxsize=1024)
def _value_of(raw: str) -> Any:
    return OmegaConf.to_container(OmegaConf.from_dotlist([f"value={raw}"]))["value"]  # type: ignore[index, call-overload]


def _check_numbers(node: Any, origin: str, key: str = "") -> None:
    if isinstance(node, dict | list):
        items = node.items() if isinstance(node, dict) else enumerate(node)
        for name, value in items:
            _check_numbers(value, origin, f"{key}.{name}" if key else str(name))
    elif isinstance(node, int) and abs(node) > LARGEST:
        raise ConfigError(
            Problem(key, None, "a number below 10^100", "write a shorter one", origin)
        )


def full_key(key: str) -> str:
    """Complete a bare option that only one section has: `max_steps` is `trainer.max_steps`.

    Args:
        key: a dotted key as typed.

    Returns:
        The key as the configuration has it.
    """
    if key == "world" or key.startswith("world."):
        return f"data.{key}"
    known = {*SECTIONS, *TOP_LEVEL, *PART_FAMILIES}
    options = [(name, item) for name, kind in SECTIONS.items() for item in option_names(kind)]
    owners = [name for name, item in options if item == key]
    # `batch_size` could be meant for another section's `global_batch_size`: not completed.
    alike = [item for _, item in options if item.endswith(f"_{key}")]
    return f"{owners[0]}.{key}" if len(owners) == 1 and not alike and key not in known else key


def _part_file(family: str, name: str) -> Path | None:
    for root in preset_roots():
        file = root / family / f"{name}.yaml"
        if file.is_file():
            return file
    return None


def _short(file: Path) -> str:
    for root in (project_root(), *(root.parent for root in preset_roots())):
        if file.is_relative_to(root):
            return file.relative_to(root).as_posix()
    return str(file)
