"""Composing a configuration: defaults, files and overrides, resolved and checked.

Layers and their origins stand in `layers.py`, checking in `validate.py`.
"""

from __future__ import annotations

import contextlib
import functools
import pickle
import re
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from qk_lightning.config.arguments import check_overrides, check_preset
from qk_lightning.config.errors import ConfigError, Problem
from qk_lightning.config.identity import identity_content, identity_of
from qk_lightning.config.layer import SWAPPABLE, Layer, get_value
from qk_lightning.config.layers import COMMAND_LINE, full_key, load_layers, override_layer
from qk_lightning.config.validate import validate

_T = TypeVar("_T")


@dataclass(frozen=True)
class Composed:
    """A resolved and checked configuration.

    Args:
        cfg: every section, with defaults filled in.
        origins: where each value that is not a default came from.
        files: the files it was made from, in order.
        stretch: steps x batch against those of the run that `reference_seconds` tells of.
        overrides: as given.
        replaced: the part that the preset has, by the key of one that an override swaps.
        interpolates: some value was given as a reference to another, such as `${seed}`.
    """

    cfg: DictConfig
    origins: dict[str, str]
    files: list[Path]
    stretch: float = 1.0
    overrides: tuple[str, ...] = ()
    replaced: dict[str, str] = field(default_factory=dict)
    interpolates: bool = False

    @functools.cached_property
    def content(self) -> dict[str, Any]:
        """What its identity is made of, but for its parent and the run that it goes on from."""
        return identity_content(self.cfg)

    @functools.cached_property
    def pickled(self) -> bytes:
        """Its configuration, to be copied."""
        return pickle.dumps(self.cfg)

    def identity(self, parent: str | None) -> str:
        """Return the identity of its run.

        Args:
            parent: the parent run's identity, or None.
        """
        return identity_of(self.cfg, self.content, parent)


# While `composing_once` is entered: what was made, by what it was made of.
_made: dict[Hashable, Any] | None = None


@contextlib.contextmanager
def composing_once() -> Iterator[None]:
    """Compose each preset with the same overrides once, and once for all seeds.

    For plans of many members that differ in little; files are taken not to change meanwhile.
    """
    global _made
    before, _made = _made, {} if _made is None else _made
    try:
        yield
    finally:
        _made = before


def once(key: Hashable, make: Callable[[], _T]) -> _T:
    """Make something, or return what was made for the key while `composing_once` is entered.

    Args:
        key: all that it depends on; the first word says what it is.
        make: makes it; the result is not to be changed.
    """
    if _made is None:
        return make()
    if key not in _made:
        _made[key] = make()
    found: _T = _made[key]
    return found


def compose(preset: str | Path, overrides: Sequence[str] = ()) -> Composed:
    """Compose one preset with its overrides, and check it.

    Args:
        preset: a preset's name or a file.
        overrides: `key=value` texts, such as `connector=enc_proj` or `trainer.max_steps=20`.

    Returns:
        The resolved configuration.

    Raises:
        ConfigError: with everything that is wrong, and the file each value came from.
    """
    overrides = check_overrides(overrides)
    make = partial(_compose_seed if _made is not None else _compose, preset, overrides)
    return once(("compose", str(preset), *overrides), make)


def _compose_seed(preset: str | Path, overrides: Sequence[str]) -> Composed:
    """Take over what was composed for another seed, where a plain one is the last override.

    A plan of 100 members with ten seeds takes 1.3 s by it, and 2.2 s where each is composed.
    """
    *others, last = overrides or [""]
    if not re.fullmatch(r"seed=\d{1,9}", last) or any(text.startswith("seed") for text in others):
        return _compose(preset, overrides)
    make = partial(_compose, preset, [*others, "seed=0"])
    first = once(("compose any seed", str(preset), *others), make)
    if first.interpolates:
        return _compose(preset, overrides)
    cfg = pickle.loads(first.pickled)  # an eighth of the time of a deep copy
    cfg.seed = int(last.partition("=")[2])
    own = replace(first, cfg=cfg, overrides=tuple(overrides))
    own.__dict__["content"] = {**first.content, "seed": cfg.seed}
    return own


def _compose(preset: str | Path, overrides: Sequence[str]) -> Composed:
    check_preset(preset)
    layer, files = load_layers(preset)
    before = {key: _name_of(layer, key) for key in SWAPPABLE}
    for text in sorted(check_overrides(overrides), key=_is_option):
        layer.merge(override_layer(text))
    layer.values.setdefault("name", files[-1].stem)
    layer.values.setdefault("stage", files[-1].stem)
    interpolates = "${" in repr(layer.values)
    values: Any = layer.values
    try:
        if interpolates:
            values = OmegaConf.to_container(OmegaConf.create(values), resolve=True)
    except OmegaConfBaseException as error:
        key = str(getattr(error, "full_key", "") or "interpolation")
        fix = "refer to a key that exists, as in ${trainer.max_steps}"
        raise ConfigError(Problem(key, None, str(error).splitlines()[0], fix)) from error
    assert isinstance(values, dict)
    cfg = validate({str(key): value for key, value in values.items()}, layer.origins)
    replaced = {key: name for key, name in before.items() if name not in ("", _name_of(layer, key))}
    stretch = _stretch(layer, cfg)
    given = tuple(overrides)
    return Composed(cfg, layer.origins, files, stretch, given, replaced, interpolates)


def _name_of(layer: Layer, key: str) -> str:
    """Return the part that a layer names, "" for none."""
    node = get_value(layer.values, key)
    name = node.get("name") if isinstance(node, dict) else node
    return name if isinstance(name, str) else ""


def _stretch(layer: Layer, cfg: DictConfig) -> float:
    if not layer.timed or layer.origins.get("reference_seconds") == COMMAND_LINE:
        return 1.0
    return int(cfg.trainer.max_steps * cfg.trainer.global_batch_size) / layer.timed


def _is_option(text: str) -> bool:
    """Sort key: a part is swapped before its options are set, in any order on the line."""
    return full_key(text.partition("=")[0].strip()) not in SWAPPABLE
