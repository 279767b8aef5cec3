"""weights.json: the ordered list that makes a run loadable; `replay.py` loads by it.

A checkpoint holds only what trained. What a run's parts are is the list of entries from the
first ancestor on: `init` (random numbers from a seed), `base` (a folder of pretrained weights),
`load` (a part as a run left it), `merge_lora` (an update added to what stands there).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig

from qk_lightning.config.atomic import write_json
from qk_lightning.config.errors import ConfigError, Problem
from qk_lightning.config.exported_folder import ExportedFolder
from qk_lightning.config.identity import fingerprint
from qk_lightning.config.paths import is_local, resolve_path
from qk_lightning.config.run_folder import RunFolder

Action = Literal["init", "base", "load", "merge_lora"]
FORMAT = 1  # of weights.json


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
        ConfigError: the run has not finished, so it has no weights to hand over; or the file is
            damaged, or of a newer version.
    """
    if isinstance(run, ExportedFolder):
        return [Entry(**item) for item in run.entries()]
    file = run.weights_json
    if not file.is_file():
        state, fix = run.state, "train it to its end first"
        if run.is_done:  # a file was lost since, and nothing would train it again by itself
            state, fix = "without weights.json", f"qk runs rm {run.name}, then train it again"
        raise ConfigError(Problem("run", run.name, f"a finished run (it is {state})", fix))
    reason = "no list of entries"
    try:
        content = json.loads(file.read_text())
        if content.get("format", FORMAT) > FORMAT:
            reason = f"format {content['format']}, this version reads {FORMAT}"
            raise ValueError(reason)
        return [Entry(**item) for item in content["entries"]]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        reason = str(error) if isinstance(error, ValueError) else reason
        fix = "update qk_lightning if a newer one wrote it; else train the run again"
        problem = Problem(str(file), None, f"the weights of a run ({reason})", fix)
        raise ConfigError(problem) from error


def write_entries(run: RunFolder, entries: Iterable[Entry]) -> None:
    """Write a run's weights.json.

    Args:
        run: the run.
        entries: in the order they are replayed.
    """
    write_json(
        run.weights_json, {"format": FORMAT, "entries": [asdict(entry) for entry in entries]}
    )


def starting_entries(
    cfg: DictConfig, families: Iterable[str], parent: RunFolder | None, root: Path | None = None
) -> list[Entry]:
    """List what a stage starts from: its parent's parts as `from_parent` says, else its own.

    Args:
        cfg: the stage's configuration.
        families: the parts of its system.
        parent: the parent's run folder.
        root: the folder that holds the run; files of a parent elsewhere are made absolute.

    Returns:
        Entries of all parts.

    Raises:
        ConfigError: the parent has no such part, or its LoRA would be dropped silently.
    """
    inherited = (
        [_seen_from(entry, parent, root) for entry in read_entries(parent)] if parent else []
    )
    entries: list[Entry] = []
    problems: list[Problem] = []
    for family in families:
        theirs = [entry for entry in inherited if entry.part == family]
        # Not named in `from_parent`: what the parent has is taken over, never dropped silently.
        handover = cfg.from_parent.get(family, "load" if theirs else "new")
        key = f"from_parent.{family}"
        if handover == "new":
            entries.append(first_entry(family, cfg[family], cfg.seed))
        elif not theirs:
            fix = f"write `from_parent: {{{family}: new}}`"
            problems.append(Problem(key, handover, f"a parent with a {family}", fix))
        elif handover == "load" and any(is_lora_of(entry, parent) for entry in theirs):
            fix = f"write `from_parent: {{{family}: merge}}`"
            problems.append(Problem(key, handover, "merge, as the parent trained it by LoRA", fix))
        else:
            entries += theirs
    if problems:
        raise ConfigError(problems)
    return entries


def is_lora_of(entry: Entry, run: RunFolder | None) -> bool:
    """Tell whether a run trained this update itself; one that it inherited is merged already.

    Args:
        entry: one of the run's entries.
        run: the run, or an exported folder: a LoRA that is kept in it is its own.
    """
    if run is None or entry.action != "merge_lora":
        return False
    return run_of(entry.file) == run.name or run.path in Path(entry.file).parents


def run_of(file: str) -> str:
    """Return the name of the run folder that a file of weights belongs to.

    Args:
        file: `<run>/weights/...`, relative or absolute.
    """
    parts = Path(file).parts
    return parts[parts.index("weights") - 1] if "weights" in parts else file


def _seen_from(entry: Entry, parent: RunFolder, root: Path | None) -> Entry:
    """Return an entry whose file is found from another root too."""
    if entry.action not in ("load", "merge_lora") or root in (None, parent.path.parent):
        return entry
    return replace(entry, file=str(parent.path.parent / entry.file))


def describe(
    entries: Iterable[Entry], trainable: Mapping[str, Any] | None = None, step: int = 0
) -> list[str]:
    """Say where each part's weights come from, for people.

    Args:
        entries: in the order they are replayed.
        trainable: how parts are trained, of a run that goes on.
        step: that of the checkpoint that it goes on from; 0 for none.

    Returns:
        A line a part.
    """
    words = {"init": "new, random", "base": "from", "load": "from", "merge_lora": "+ LoRA of"}
    lines: dict[str, list[str]] = {}
    for entry in entries:
        origin = run_of(entry.file) if entry.action in ("load", "merge_lora") else entry.file
        lines.setdefault(entry.part, []).append(f"{words[entry.action]} {origin}".strip())
    for part, how in (trainable or {}).items() if step else ():
        kept = f"from its checkpoint, step {step}"
        if how == "full":
            lines[part] = [kept]
        elif not isinstance(how, str):  # `frozen` is not in a resolved configuration
            lines.setdefault(part, []).append(f"+ LoRA {kept}")
    return [f"{part:<12} {', '.join(steps)}" for part, steps in lines.items()]


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
        if not path.exists():
            run = run_of(entry.file)
            fix = f"train it again, or bring the folder {run} back"
            problems.append(Problem("weights", entry.file, f"the weights of run {run}", fix))
        elif fingerprint(path) != entry.sha256:
            fix = "train the run again: its weights are no longer those that were recorded"
            problems.append(Problem("weights", entry.file, "an unchanged file", fix))
    if problems:
        raise ConfigError(problems)


def check_bases(cfg: DictConfig, entries: Iterable[Entry], families: Iterable[str]) -> None:
    """See that a part's `path` still names the weights that its entries begin with.

    Args:
        cfg: the configuration whose parts are built.
        entries: the entries.
        families: the parts wanted.

    Raises:
        ConfigError: naming both paths.
    """
    problems = []
    for entry in entries:
        if entry.action != "base" or entry.part not in families:
            continue
        path = cfg[entry.part].get("path")
        is_same = path == entry.file
        if not is_same and path and entry.sha256 and is_local(path):
            is_same = fingerprint(resolve_path(path, f"{entry.part}.path")) == entry.sha256
        if not is_same:
            fix = f"set {entry.part}.path={entry.file}, or `from_parent: {{{entry.part}: new}}`"
            expected = "the weights that the parent began with"
            problems.append(Problem(f"{entry.part}.path", path, expected, fix))
    if problems:
        raise ConfigError(problems)
