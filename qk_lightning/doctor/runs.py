"""What lies in `runs/`: killed runs, locks of dead processes, leftovers, caches."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from qk_lightning.config.find_runs import list_runs
from qk_lightning.config.locks import FolderLock
from qk_lightning.config.paths import cache_root, runs_root
from qk_lightning.config.run_folder import RunFolder
from qk_lightning.doctor.finding import Finding, size_text
from qk_lightning.tracking.mlflow_missed import count_missed
from qk_lightning.tracking.provenance import describe_changes, source_changes

Item = TypeVar("Item")
MAX_NAMED = 5
DEPTH = 3


def check_runs() -> Iterator[Finding]:
    """Look at every run and at what was left behind.

    Yields:
        A count by state, then what is stale or broken.
    """
    runs = list_runs()
    states = Counter(run.state for run in runs)
    text = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    yield Finding("runs", "ok", text or "none yet: qk fit laptop/stage1")
    yield from _unfinished(runs)
    yield from _broken(runs)
    yield from _left_behind()
    if cache_root().is_dir():
        text = f"{size_text(size_of(cache_root()))} in {cache_root()}; may be removed at any time"
        yield Finding("cache", "ok", text)


def _unfinished(runs: list[RunFolder]) -> Iterator[Finding]:
    for run in _first([run for run in runs if run.state in ("interrupted", "stopped", "failed")]):
        step, total = run.last_checkpoint_step, run.status.get("max_steps", "?")
        error = str(run.status.get("error") or "").partition("\n")[0]
        why = f" ({error})" if run.state == "failed" and error else ""
        text = f"{run.state} at step {run.status.get('step', 0)} of {total}{why}"
        how = f"goes on from step {step}" if step else "starts it again (it has no checkpoint)"
        fix = f"the same command {how}; or qk runs rm {run.name}"
        yield Finding(run.name, "note", text, fix)


def _broken(runs: list[RunFolder]) -> Iterator[Finding]:
    changed = [files for run in runs if run.is_done and (files := source_changes(run))]
    if changed:
        count = "1 finished run was" if len(changed) == 1 else f"{len(changed)} finished runs were"
        differ = describe_changes(file for files in changed for file in files)
        text = f"{count} done by other code ({differ})"
        yield Finding("other code", "note", text, "qk fit PRESET --redo trains one again")
    names = {run.name for run in runs}
    for run in _first([run for run in runs if _lost_ancestors(run, names)]):
        text = f"needs {', '.join(_lost_ancestors(run, names))}, which is gone"
        yield Finding(run.name, "note", text, "train that one again, or remove this one")
    if missed := count_missed(runs):
        text = f"lacks some of {missed} {'run' if missed == 1 else 'runs'}"
        yield Finding("MLflow", "note", text, "qk track sync")
    for run in _first([run for run in runs if not run.status]):
        yield Finding(run.name, "note", "its status.json is damaged", f"qk runs rm {run.name}")


def _lost_ancestors(run: RunFolder, names: set[str]) -> list[str]:
    entries = run.read_json("weights.json").get("entries", [])
    files = [Path(str(entry.get("file") or "")) for entry in entries]
    # `<run>/weights/<part>...`, relative to runs/
    heads = {file.parts[0] for file in files if len(file.parts) > 1 and not file.is_absolute()}
    return sorted(head for head in heads if _is_run(head) and head not in names)


def _is_run(head: str) -> bool:
    name, dash, identity = head.rpartition("-")
    return bool(name and dash) and len(identity) == 10 and not (runs_root() / head).exists()


def _left_behind() -> Iterator[Finding]:
    dead, parts = [], []
    for path in _hidden(runs_root(), DEPTH):
        if path.name == ".lock" and not FolderLock(path.parent).is_held:
            dead.append(path.parent.name)
        elif ".part" in path.name or (path.parent == runs_root() and path.is_dir()):
            parts.append(path)
    if dead:
        text = f"{len(dead)} of dead processes: {', '.join(_first(dead))}"
        yield Finding("locks", "note", text, "none needed: the next command frees them")
    if parts:
        size = sum(size_of(path) for path in parts)
        shown = " ".join(str(path) for path in _first(parts))
        fix = f"when nothing runs: rm -r {shown}"
        yield Finding("half-written", "note", f"{len(parts)}, {size_text(size)}", fix)


def _hidden(folder: Path, depth: int) -> Iterator[Path]:
    """Yield what begins with a dot, down to a depth; caches and checkpoints are not entered."""
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            yield path
        elif depth > 1 and path.is_dir() and path.name not in ("checkpoints", "artifacts"):
            yield from _hidden(path, depth - 1)


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files under a folder.

    Args:
        path: the file or folder.
    """
    if path.is_file():
        return path.stat().st_size
    walked = os.walk(path)
    files = [Path(folder) / name for folder, _, names in walked for name in names]
    return sum(file.stat().st_size for file in files if file.is_file())


def _first(items: list[Item]) -> list[Item]:
    return items[:MAX_NAMED]
