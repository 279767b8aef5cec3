"""From entries to parts with weights: the one way to load anything.

A part is built and its entries are applied in order, in float32 where something is added. Not
here: what the entries are (`weights.py`), and a part that is too large for a device (`scatter.py`).
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from safetensors import SafetensorError
from torch import Tensor, nn

from qk_lightning.assembly.adapter_folder import merge_adapter
from qk_lightning.assembly.build import build_part, wired_sizes
from qk_lightning.assembly.lora import merge_lora
from qk_lightning.assembly.weights import Entry, check_bases, check_files
from qk_lightning.config.errors import ConfigError, Problem
from qk_lightning.parts.base import Part

log = logging.getLogger("qk_lightning")


def replay(
    cfg: DictConfig, entries: list[Entry], families: Iterable[str], root: Path
) -> dict[str, Part]:
    """Build the parts of a run and give them their weights.

    Args:
        cfg: the configuration whose parts are built.
        entries: what `starting_entries` or `read_entries` returned.
        families: the parts wanted, in build order.
        root: the folder that holds the run folders.

    Returns:
        Part by family, on the CPU.

    Raises:
        ConfigError: a file is missing (its run is named), was changed, or does not fit.
    """
    check_files(entries, root)
    check_bases(cfg, entries, families)
    parts: dict[str, Part] = {}
    for family in families:
        parts[family] = replay_part(cfg, entries, family, wired_sizes(parts), root)
    return parts


def replay_part(
    cfg: DictConfig,
    entries: Iterable[Entry],
    family: str,
    wired: Mapping[str, int],
    root: Path,
    lean: bool = False,
) -> Part:
    """Build one part and give it its weights.

    Args:
        cfg: the configuration.
        entries: those of all parts.
        family: the part wanted.
        wired: sizes measured on other parts.
        root: the folder that holds the run folders.
        lean: read the first file without drawing random weights before, which it would
            overwrite: the tensors are views of the mapped file where the dtypes agree. The
            numbers are the same.

    Returns:
        The part, on the CPU.

    Raises:
        ConfigError: a file does not fit.
    """
    own = [entry for entry in entries if entry.part == family]
    part = None
    if lean and own and own[0].action in ("base", "load"):
        with torch.device("meta"):
            part = bare_part(cfg, own, family, wired)
        _apply_or_explain(part, own[0], root)
        if has_holes(part):  # a folder without weights, or a table that no file holds
            part = None
    done = 0 if part is None else 1
    part = part or bare_part(cfg, own, family, wired)
    for entry in own[done:]:
        _apply_or_explain(part, entry, root)
    return part


def bare_part(
    cfg: DictConfig, entries: Iterable[Entry], family: str, wired: Mapping[str, int]
) -> Part:
    """Build one part from its seed, in the dtype that `trainer.frozen_dtype` gives it.

    Args:
        cfg: the configuration.
        entries: the first of this family's says the seed; the run's own without one.
        family: the part wanted.
        wired: sizes measured on other parts.
    """
    seeds = (e.seed for e in entries if e.part == family and e.action in ("init", "base"))
    part = build_part(family, cfg[family], next(seeds, cfg.seed), wired)
    dtype = OmegaConf.select(cfg, f"trainer.frozen_dtype.{family}")  # an older run has none
    return part if dtype is None else part.to(getattr(torch, dtype))


def has_holes(module: nn.Module) -> bool:
    """Tell whether any parameter or buffer is without storage.

    Args:
        module: any module.
    """
    return any(tensor.is_meta for tensor in tensors_of(module).values())


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by name, those that no file holds too; a tied one once.

    Args:
        module: any module.
    """
    return dict(itertools.chain(module.named_parameters(), module.named_buffers()))


def _apply_or_explain(part: Part, entry: Entry, root: Path) -> None:
    try:
        _apply(part, entry, root)
    except (ValueError, OSError, KeyError, SafetensorError) as error:
        family = entry.part
        expected = f"weights that fit this {family} ({error})"
        key, fix = family, "use the parent's own options for it, or `from_parent: new`"
        if entry.action == "base":
            key, fix = f"{family}.path", "name a whole folder of such a model"
        elif entry.action == "merge_lora":
            fix = f"take a LoRA that was trained on a {family} of this width"
        raise ConfigError(Problem(key, entry.file, expected, fix)) from error


def _apply(part: Part, entry: Entry, root: Path) -> None:
    if entry.action == "base":
        if not part.load_base():
            log.warning("%s holds no weights: random ones from seed %d", entry.file, entry.seed)
    elif entry.action == "load":
        part.load_folder(root / entry.file)
    elif entry.action == "merge_lora":
        file = root / entry.file
        (merge_adapter if file.is_dir() else merge_lora)(part, file)
