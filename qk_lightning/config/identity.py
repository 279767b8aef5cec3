"""A run's identity: the hash of what shapes its result.

In it: the resolved configuration with values equal to defaults left out, fingerprints of input
paths in place of the paths, versions of parts, and the parent's identity. Not in it: names,
output, logging, devices, workers, micro-batches (`sections.NOT_IN_IDENTITY`).
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from qk_lightning.config.mixture import WEIGHT
from qk_lightning.config.paths import is_file, is_local, resolve_path
from qk_lightning.config.resume import file_of, is_of
from qk_lightning.config.schema import PART_FAMILIES, schema_of
from qk_lightning.config.sections import NOT_IN_IDENTITY, SECTIONS, Lora, structured_section

LENGTH = 10
WHOLE_FILE_BYTES = 64 * 2**20


def hash_content(content: Mapping[str, Any]) -> str:
    """Hash what shapes a run's result.

    Args:
        content: plain values.

    Returns:
        Ten hexadecimal digits.
    """
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:LENGTH]


def identity_of(cfg: DictConfig, content: Mapping[str, Any], parent: str | None) -> str:
    """Return the identity of a run.

    Args:
        cfg: its configuration.
        content: `identity_content` of it.
        parent: the parent run's identity, or None.

    Returns:
        Ten hexadecimal digits.
    """
    whole = dict(content) if parent is None else {**content, "parent_identity": parent}
    identity, file = hash_content(whole), file_of(cfg)
    if file is None or is_of(file, identity):
        return identity
    return hash_content({**whole, "resumed_from": fingerprint(file)})  # it starts from another run


def identity_content(cfg: DictConfig) -> dict[str, Any]:
    """Return what shapes a run's result, but for its parent and the run that it goes on from.

    Args:
        cfg: a configuration that `validate` has filled in.

    Returns:
        Nested plain values.
    """
    values: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    for key in NOT_IN_IDENTITY:
        section, _, name = key.partition(".")
        if name:
            values[section].pop(name, None)
        else:
            values.pop(section, None)
    world = values["data"].pop("world")
    for name, kind in SECTIONS.items():
        if name in values:
            values[name] = _without_defaults(values[name], _defaults_of(kind))
    values["world"] = _part_content("world", world)
    for family in ("system", *PART_FAMILIES):
        if values.get(family) is not None:
            values[family] = _part_content(family, values[family])
    for how in values.get("trainable", {}).values():
        if isinstance(how, dict):
            how["lora"] = _without_defaults(how["lora"], _defaults_of(Lora))
    tasks = values["data"].get("tasks", {})
    values["data"]["tasks"] = {task: weight for task, weight in tasks.items() if weight}
    return {key: value for key, value in values.items() if value not in ({}, None)}


@functools.cache
def _defaults_of(section: type) -> dict[str, Any]:
    return dict(OmegaConf.to_container(structured_section(section)))  # type: ignore[arg-type]


def _part_content(family: str, node: dict[str, Any]) -> dict[str, Any]:
    schema = schema_of(family, node["name"])
    content = _without_defaults(node, schema.defaults)
    for name in schema.attributes.get("paths", ()):
        if isinstance(content.get(name), str):
            content[name] = _path_content(content[name], f"{family}.{name}")
    if (option := schema.attributes.get("holds")) is not None:
        content.pop("size", None)  # stands in the worlds held
        content[option] = _worlds_content(content.get(option, {}))
    version = schema.attributes.get("version", 1)
    return content if version == 1 else {**content, "version": version}


def _worlds_content(worlds: dict[str, Any]) -> dict[str, Any]:
    """What the worlds of a mixture are, by label; one that is off is as good as not there."""
    found = {}
    for label, node in worlds.items():
        options = {name: value for name, value in node.items() if name != WEIGHT}
        if node[WEIGHT]:
            found[label] = {**_part_content("world", options), WEIGHT: node[WEIGHT]}
    return found


def _without_defaults(values: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    kept = {}
    for name, value in values.items():
        default = defaults.get(name, MISSING)
        if isinstance(value, dict) and isinstance(default, dict) and default:
            value = _without_defaults(value, default)
            if not value:
                continue
        if value != default:
            kept[name] = value
    return kept


def _path_content(text: str, key: str) -> str:
    if not is_local(text):
        return f"hub:{text}"
    return fingerprint(resolve_path(text, key))


def fingerprint(path: Path) -> str:
    """Hash what a file or a folder of weights holds.

    A `.jsonl` manifest brings the images it names. Of files over 64 MiB the size, the first
    and the last MiB are hashed: a weight file's header and its tail.

    Args:
        path: an existing file or folder.

    Returns:
        Sixteen hexadecimal digits.
    """
    files = _files_of(path)
    stamps = tuple((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files)
    return _fingerprint(path, stamps)


def _files_of(path: Path) -> list[Path]:
    if path.is_dir():
        skipped = ("CARD.md", "README.md", "run.yaml")  # how it was made, not what it is
        return sorted(f for f in path.rglob("*") if f.is_file() and f.name not in skipped)
    if path.suffix != ".jsonl":
        return [path]
    named: set[Path] = set()
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):  # its own reader says what is wrong
            continue
        if isinstance(entry, dict):
            images = entry.get("images")
            images = images if isinstance(images, list) else []
            names = [entry.get("target"), *(i.get("path") for i in images if isinstance(i, dict))]
            named |= {path.parent / name for name in names if isinstance(name, str)}
    return [path, *sorted(file for file in named if is_file(file))]


@functools.lru_cache(maxsize=512)
def _fingerprint(path: Path, stamps: tuple[tuple[str, int, int], ...]) -> str:
    digest = hashlib.sha256()
    base = path if path.is_dir() else path.parent
    for name, size, _ in stamps:
        file = Path(name)
        relative = file.relative_to(base) if file.is_relative_to(base) else file.name
        digest.update(f"{relative}:{size}:".encode())
        with file.open("rb") as handle:
            if size <= WHOLE_FILE_BYTES:
                digest.update(handle.read())
            else:
                digest.update(handle.read(2**20))
                handle.seek(-(2**20), 2)
                digest.update(handle.read())
    return digest.hexdigest()[:16]
