"""weights.json: the ordered list that makes a run loadable, and the one function to replay it.

A checkpoint holds only what trained. What a run's parts are is the list of entries from the
first ancestor on: `init` (random numbers from a seed), `base` (a folder of pretrained weights),
`load` (a part as a run left it), `merge_lora` (an update added to what stands there).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from omegaconf import DictConfig
from safetensors import safe_open
from torch import nn

from qk_lightning.assembly.build import build_part, wired_sizes
from qk_lightning.config.atomic import write_json
from qk_lightning.config.errors import ConfigError, Problem
from qk_lightning.config.identity import fingerprint
from qk_lightning.config.paths import is_local, resolve_path
from qk_lightning.config.run_folder import RunFolder
from qk_lightning.parts.base import Part

Action = Literal["init", "base", "load", "merge_lora"]


@dataclass(frozen=True)
class Entry:
    """One step on the way to a part's weights.

    Args:
        part: the part's family.
        action: what happens.
        file: `base`: the path as configured; `load` and `merge_lora`: a path relative to the
            folder that holds the run folders.
        sha256: digest of what the file holds; "" for `init` and for a hub id.
        seed: `init` and `base`: the seed of weights that no file holds.
    """

    part: str
    action: Action
    file: str = ""
    sha256: str = ""
    seed: int = 0


def first_entry(family: str, node: DictConfig, seed: int) -> Entry:
    """Return how a part begins without a parent: from its `path`, else at random.

    Args:
        family: the part's family.
        node: its options.
        seed: the run's seed.
    """
    path = node.get("path")
    if not path:
        return Entry(family, "init", seed=seed)
    digest = fingerprint(resolve_path(path, f"{family}.path")) if is_local(path) else ""
    # The seed counts where the folder has a configuration and no weights.
    return Entry(family, "base", path, digest, seed)


def read_entries(run: RunFolder) -> list[Entry]:
    """Read a finished run's weights.json.

    Args:
        run: the run.

    Returns:
        Its entries in order.

    Raises:
        ConfigError: the run has not finished, so it has no weights to hand over.
    """
    if not run.weights_json.is_file():
        state = run.status.get("state", "missing")
        problem = Problem("parent", run.name, f"a finished run (it is {state})", "train it first")
        raise ConfigError(problem)
    return [Entry(**item) for item in json.loads(run.weights_json.read_text())["entries"]]


def write_entries(run: RunFolder, entries: Iterable[Entry]) -> None:
    """Write a run's weights.json.

    Args:
        run: the run.
        entries: in the order they are replayed.
    """
    write_json(run.weights_json, {"format": 1, "entries": [asdict(entry) for entry in entries]})


def starting_entries(
    cfg: DictConfig, families: Iterable[str], parent: RunFolder | None
) -> list[Entry]:
    """List what a stage starts from: its parent's parts as `from_parent` says, else its own.

    Args:
        cfg: the stage's configuration.
        families: the parts of its system.
        parent: the parent's run folder.

    Returns:
        Entries of all parts.

    Raises:
        ConfigError: the parent has no such part, or its LoRA would be dropped silently.
    """
    inherited = read_entries(parent) if parent is not None else []
    entries: list[Entry] = []
    problems: list[Problem] = []
    for family in families:
        handover = cfg.from_parent.get(family, "new")
        key = f"from_parent.{family}"
        theirs = [entry for entry in inherited if entry.part == family]
        if handover == "new":
            entries.append(first_entry(family, cfg[family], cfg.seed))
        elif not theirs:
            fix = f"write `from_parent: {{{family}: new}}`"
            problems.append(Problem(key, handover, f"a parent with a {family}", fix))
        elif handover == "load" and any(_is_lora_of(entry, parent) for entry in theirs):
            fix = f"write `from_parent: {{{family}: merge}}`"
            problems.append(Problem(key, handover, "merge, as the parent trained it by LoRA", fix))
        else:
            entries += theirs
    if problems:
        raise ConfigError(problems)
    return entries


def _is_lora_of(entry: Entry, run: RunFolder | None) -> bool:
    """Tell whether a run trained this update itself; one that it inherited is merged already."""
    return (
        run is not None and entry.action == "merge_lora" and entry.file.startswith(f"{run.name}/")
    )


def replay(
    cfg: DictConfig, entries: list[Entry], families: Iterable[str], root: Path
) -> dict[str, Part]:
    """Build the parts of a run and give them their weights: the one way to load anything.

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
    parts: dict[str, Part] = {}
    for family in families:
        own = [entry for entry in entries if entry.part == family]
        seed = next((e.seed for e in own if e.action in ("init", "base")), cfg.seed)
        part = build_part(family, cfg[family], seed, wired_sizes(parts))
        for entry in own:
            try:
                _apply(part, entry, root)
            except (ValueError, OSError, KeyError) as error:
                expected = f"weights that fit this {family} ({error})"
                fix = "use the parent's own options for it, or `from_parent: new`"
                raise ConfigError(Problem(family, entry.file, expected, fix)) from error
        parts[family] = part
    return parts


def check_files(entries: Iterable[Entry], root: Path) -> None:
    """See that every file of a replay is there and is the one that was recorded.

    Args:
        entries: the entries.
        root: the folder that holds the run folders.

    Raises:
        ConfigError: naming the run that is missing or changed.
    """
    problems = []
    for entry in entries:
        if entry.action == "init" or not entry.sha256:
            continue
        is_base = entry.action == "base"
        path = resolve_path(entry.file, f"{entry.part}.path") if is_base else root / entry.file
        run = Path(entry.file).parts[0]
        if not path.exists():
            fix = f"train it again, or bring the folder {run} back"
            problems.append(Problem("weights", entry.file, f"the weights of run {run}", fix))
        elif fingerprint(path) != entry.sha256:
            fix = "train the run again: its weights are no longer those that were recorded"
            problems.append(Problem("weights", entry.file, "an unchanged file", fix))
    if problems:
        raise ConfigError(problems)


def _apply(part: Part, entry: Entry, root: Path) -> None:
    if entry.action == "base":
        part.load_base()
    elif entry.action == "load":
        part.load_folder(root / entry.file)
    elif entry.action == "merge_lora":
        merge_lora(part, root / entry.file)


def merge_lora(part: nn.Module, file: Path) -> int:
    """Add a LoRA update to a part: W <- W + alpha / rank * B A, in float32, matrix by matrix.

    Args:
        part: the part, without adapters.
        file: safetensors of `<layer>.lora_A.default.weight` [r, in] and `..lora_B..` [out, r],
            with `{"rank": r, "alpha": a}` as JSON under `lora` in its metadata.

    Returns:
        How many matrices were updated.

    Raises:
        ValueError: the file updates nothing, or a layer that the part does not have.
    """
    count = 0
    with safe_open(file, framework="pt") as handle, torch.no_grad():
        metadata = json.loads((handle.metadata() or {})["lora"])
        scale = metadata["alpha"] / metadata["rank"]
        for name in handle.keys():  # noqa: SIM118 - not a dict
            if ".lora_A." not in name:
                continue
            layer = name.split(".lora_A.")[0]
            down = handle.get_tensor(name).float()
            up = handle.get_tensor(name.replace(".lora_A.", ".lora_B.")).float()
            try:
                weight = part.get_parameter(f"{layer}.weight")
            except AttributeError as error:
                raise ValueError(
                    f"the LoRA updates {layer}, which the part does not have"
                ) from error
            if weight.shape != (up.shape[0], down.shape[1]):
                raise ValueError(f"the LoRA of {layer} is for {(up.shape[0], down.shape[1])}")
            weight.copy_((weight.float() + scale * up @ down).to(weight.dtype))
            count += 1
    if not count:
        raise ValueError(f"{file} holds no LoRA update")
    return count
