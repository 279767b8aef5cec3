"""Building parts from a configuration, each from its own seed, and wiring their sizes.

Order: vlm, autoencoder, head, queries, connector, objective. Sizes come from constructors (a
config.json where weights are loaded), so this works on the meta device without weights.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from qk_lightning.config.errors import ConfigError, Problem, did_you_mean
from qk_lightning.config.paths import is_local
from qk_lightning.config.schema import PART_FAMILIES, schema_of
from qk_lightning.data.sample import World
from qk_lightning.parts.base import Part

BUILD_ORDER = ("vlm", "autoencoder", "head", "queries", "connector", "objective")


def families_of(cfg: DictConfig) -> tuple[str, ...]:
    """Return the families of parts that a configuration's system uses.

    Args:
        cfg: a resolved configuration.
    """
    return tuple(schema_of("system", cfg.system.name).attributes["families"])


def class_of(family: str, name: str) -> type:
    """Import the class behind a name.

    Args:
        family: `connector`, `world`, `system`, ...
        name: as in YAML.

    Returns:
        The class.
    """
    schema = schema_of(family, name)
    return getattr(importlib.import_module(schema.module), schema.class_name)


@contextmanager
def seeded(seed: int, *names: str) -> Iterator[None]:
    """Draw random numbers from (seed, names) and leave the global generator as it was.

    A part that starts from its own seed starts the same whatever other parts look like.

    Args:
        seed: the run's seed.
        *names: what the numbers are for.
    """
    text = "/".join((str(seed), *names))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(hashlib.sha256(text.encode()).hexdigest()[:15], 16))
        yield


def build_part(family: str, node: DictConfig, seed: int, wired: Mapping[str, int]) -> Part:
    """Construct one part; no weights are read.

    Args:
        family: the part's family.
        node: its options with `name`.
        seed: the seed that its random weights start from.
        wired: sizes measured on other parts; those that the class names in `wired` are passed.

    Returns:
        The part, in float32 on the CPU or on the current default device.

    Raises:
        ConfigError: the constructor refuses the options.
    """
    options: dict[str, Any] = dict(OmegaConf.to_container(node, resolve=True))  # type: ignore[arg-type]
    name = options.pop("name")
    part_class = class_of(family, name)
    arguments = {key: wired[key] for key in part_class.wired}
    _check_known(family, name, options)
    try:
        with seeded(seed, family):
            part = part_class(**options, **arguments)
    except ConfigError as error:  # a path of the part that is not there
        problems = [replace(problem, key=f"{family}.{problem.key}") for problem in error.problems]
        raise ConfigError(problems) from error
    except OSError as error:  # a folder or hub without such a model
        raise ConfigError(_unreadable(family, options.get("path"), error)) from error
    except ValueError as error:
        fix = f"as the reason says; its options: qk config PRESET --explain {family}"
        problem = Problem(family, name, f"options that fit together ({error})", fix)
        raise ConfigError(problem) from error
    return part


def _unreadable(family: str, path: Any, error: OSError) -> Problem:
    """Say that a model cannot be read; one of a hub can be had as a folder."""
    expected = f"a model that can be read ({' '.join(str(error).split())})"
    fix = "give a folder with its config.json, `builtin:<name>`, or a hub id"
    if isinstance(path, str) and not is_local(path):
        fix = (
            f"give a folder with its config.json: `hf download {path} --local-dir FOLDER` where "
            f"the hub can be reached, then {family}.path=FOLDER here"
        )
    return Problem(f"{family}.path", path, expected, fix)


def _check_known(family: str, name: str, options: Mapping[str, Any]) -> None:
    """See that a part has the options: a run's own configuration may be of another version.

    Raises:
        ConfigError: naming those that it does not have.
    """
    known = schema_of(family, name).options
    problems = [
        Problem(f"{family}.{option}", value, f"an option of {name}", did_you_mean(option, known))
        for option, value in options.items()
        if option not in known
    ]
    if problems:
        raise ConfigError(problems)


def wired_sizes(parts: Mapping[str, Part]) -> dict[str, int]:
    """Measure the sizes that later parts are wired with.

    Args:
        parts: the parts built so far, by family.

    Returns:
        Sizes by the name of the wired argument, as far as known.
    """
    sizes: dict[str, int] = {}
    if "vlm" in parts:
        sizes["hidden_size"] = sizes["input_size"] = parts["vlm"].hidden_size
        sizes["num_layers"] = parts["vlm"].num_layers
    if "autoencoder" in parts:
        sizes["latent_channels"] = parts["autoencoder"].latent_channels
    if "head" in parts:
        sizes["output_size"] = parts["head"].condition_size
    return sizes


def build_parts(cfg: DictConfig, families: tuple[str, ...] = PART_FAMILIES) -> dict[str, Part]:
    """Build all parts of a system, without weights.

    Args:
        cfg: a resolved configuration.
        families: the families that the system uses.

    Returns:
        Part by family, in build order.
    """
    parts: dict[str, Part] = {}
    for family in BUILD_ORDER:
        if family in families:
            parts[family] = build_part(family, cfg[family], cfg.seed, wired_sizes(parts))
    return parts


def open_world(node: DictConfig) -> World:
    """Open the world that a configuration trains on.

    Args:
        node: `data.world`.

    Returns:
        The world, not yet prepared.
    """
    options: dict[str, Any] = dict(OmegaConf.to_container(node, resolve=True))  # type: ignore[arg-type]
    return class_of("world", options.pop("name"))(**options)
