"""A checkpoint of a run as a folder that loads like the finished run: the best one, or any other.

What trained is written as a finished run writes it (the average where there is one), beside the
entries that the run started from; so drawing, scoring and exporting need no way of their own.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from qk_lightning.assembly.shard import load_trained
from qk_lightning.assembly.trainable import save_trained
from qk_lightning.assembly.weights import Entry, write_entries
from qk_lightning.config.errors import ConfigError, Problem
from qk_lightning.config.resume import find_checkpoint, step_in_name
from qk_lightning.config.run_folder import RunFolder
from qk_lightning.systems.base import build_system
from qk_lightning.training.checkpoint_record import KEY, DamagedCheckpointError, read_whole

COPIED = ("config.yaml", "parent.json", "metrics.csv", "parameters.json", "provenance.json")
FROM_FILES = ("load", "merge_lora")  # entries whose files are relative to the folder of the runs


@contextmanager
def run_at(run: RunFolder, text: str | None) -> Iterator[RunFolder]:
    """Give a run as it was at a checkpoint, for as long as its weights are read.

    Args:
        run: the run; it need not have finished.
        text: `best`, `last`, a step or a file; None for the finished run itself.

    Yields:
        A run's folder of the same name; its files go when this ends.

    Raises:
        ConfigError: there is no such checkpoint, it is damaged, or older code wrote it.
    """
    if text is None:
        yield run
        return
    file = find_checkpoint(run, text)
    try:
        content = read_whole(file)
    except DamagedCheckpointError as error:
        problem = Problem(
            "--checkpoint", str(file), f"a whole checkpoint ({error})", "name another"
        )
        raise ConfigError(problem) from error
    if KEY not in content:
        expected = "a checkpoint that says which weights it started from: older code wrote it"
        raise ConfigError(Problem("--checkpoint", str(file), expected, "train the run again"))
    place = Path(mkdtemp(prefix=".at_", dir=run.path))
    try:
        view = RunFolder(place / run.name)
        _write(view, run, content)
        yield view
    finally:
        shutil.rmtree(place, ignore_errors=True)


def step_at(run: RunFolder, text: str) -> str:
    """Name a checkpoint for a folder of what it draws.

    Args:
        run: the run.
        text: as `run_at` takes it.

    Returns:
        `step<n>`, or the file's own name.
    """
    file = find_checkpoint(run, text)
    step = step_in_name(file)
    return file.stem if step is None else f"step{step}"


def _write(view: RunFolder, run: RunFolder, content: dict[str, Any]) -> None:
    """Write configuration, weights and entries."""
    view.path.mkdir()
    for name in COPIED:
        if (run.path / name).is_file():
            shutil.copy(run.path / name, view.path)
    view.keep_metrics_until(int(content["global_step"]))
    cfg, root = run.config, run.path.parent
    entries = [Entry(**item) for item in content[KEY]["entries"]]
    system = build_system(cfg, entries, root)
    system.configure_model()
    shadow = content.get("callbacks", {}).get("EMACallback", {}).get("shadow")
    load_trained(system, shadow or content["state_dict"])
    written = save_trained(view, system.parts, cfg.trainable, entries)
    write_entries(view, [_absolute(entry, root, entries, view) for entry in written])


def _absolute(entry: Entry, root: Path, old: list[Entry], view: RunFolder) -> Entry:
    if entry.action not in FROM_FILES:
        return entry
    return replace(entry, file=str((root if entry in old else view.path.parent) / entry.file))
