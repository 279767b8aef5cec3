"""Composing a configuration: defaults, files and overrides, resolved and checked.

Layers and their origins stand in `layers.py`, checking in `validate.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from qk_lightning.config.arguments import check_overrides, check_preset
from qk_lightning.config.errors import ConfigError, Problem
from qk_lightning.config.layer import SWAPPABLE, Layer, get_value
from qk_lightning.config.layers import COMMAND_LINE, full_key, load_layers, override_layer
from qk_lightning.config.validate import validate


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
    """

    cfg: DictConfig
    origins: dict[str, str]
    files: list[Path]
    stretch: float = 1.0
    overrides: tuple[str, ...] = ()
    replaced: dict[str, str] = field(default_factory=dict)


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
    check_preset(preset)
    layer, files = load_layers(preset)
    before = {key: _name_of(layer, key) for key in SWAPPABLE}
    for text in sorted(check_overrides(overrides), key=_is_option):
        layer.merge(override_layer(text))
    layer.values.setdefault("name", files[-1].stem)
    layer.values.setdefault("stage", files[-1].stem)
    try:
        values = OmegaConf.to_container(OmegaConf.create(layer.values), resolve=True)
    except OmegaConfBaseException as error:
        key = str(getattr(error, "full_key", "") or "interpolation")
        fix = "refer to a key that exists, as in ${trainer.max_steps}"
        raise ConfigError(Problem(key, None, str(error).splitlines()[0], fix)) from error
    assert isinstance(values, dict)
    cfg = validate({str(key): value for key, value in values.items()}, layer.origins)
    replaced = {key: name for key, name in before.items() if name not in ("", _name_of(layer, key))}
    stretch = _stretch(layer, cfg)
    return Composed(cfg, layer.origins, files, stretch, tuple(overrides), replaced)


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
