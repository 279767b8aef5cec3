"""What came of a search's trials: `trials.json` in the sweep's folder, read without Optuna.

Finished trials are the rows of the report; pruned and failed ones are in `trials.csv` alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from qk_lightning.config.atomic import write_json
from qk_lightning.config.paths import sweeps_root
from qk_lightning.sweeps.file import Row, SweepFile, format_value, make_row
from qk_lightning.sweeps.space import Range

TRIALS_FILE = "trials.json"
COMPLETE, PRUNED, FAILED, RUNNING = "complete", "pruned", "failed", "running"


@dataclass(frozen=True)
class Trial:
    """One trial.

    Args:
        number: from 0, in the order they were asked.
        values: value by axis.
        state: complete, pruned, failed or running.
        value: the search's metric, a mean over seeds; None before the end.
        step: the last step whose validation loss was reported.
    """

    number: int
    values: dict[str, Any]
    state: str
    value: float | None = None
    step: int | None = None


def row_of(values: Mapping[str, Any], number: int) -> Row:
    """Make the row of a trial.

    Args:
        values: value by axis.
        number: the trial.
    """
    row = make_row(dict(values))
    return replace(row, name=f"trial {number}: {row.name}")


def read_trials(folder: Path) -> list[Trial]:
    """Read a search's trials, [] before the first.

    Args:
        folder: the sweep's folder.
    """
    file = folder / TRIALS_FILE
    return [Trial(**one) for one in json.loads(file.read_text())] if file.is_file() else []


def write_trials(folder: Path, trials: Sequence[Trial]) -> None:
    """Keep a search's trials.

    Args:
        folder: the sweep's folder.
        trials: all of them.
    """
    write_json(folder / TRIALS_FILE, [asdict(trial) for trial in trials])


def with_trials(file: SweepFile) -> SweepFile:
    """Give a search the rows of its finished trials, each combination of values once.

    Args:
        file: a sweep; one without a search is returned as it is.
    """
    if file.search is None:
        return file
    done = [t for t in read_trials(sweeps_root() / file.name) if t.state == COMPLETE]
    rows: dict[str, Trial] = {}
    for trial in done:
        rows.setdefault(json.dumps(trial.values, sort_keys=True), trial)
    axes = {key: _tried(of, [trial.values[key] for trial in rows.values()])
            for key, of in file.space.items()}  # fmt: skip
    listed = tuple(row_of(trial.values, trial.number) for trial in rows.values())
    return replace(file, axes=axes if listed else {}, listed=listed)


def _tried(of: Range | tuple[Any, ...], values: list[Any]) -> tuple[Any, ...]:
    if isinstance(of, Range):
        return tuple(sorted(set(values)))
    return tuple(option for option in of if option in values)


def best_of(file: SweepFile, trials: Sequence[Trial]) -> Trial | None:
    """Return the best finished trial, None where there is none.

    Args:
        file: the sweep, with a search.
        trials: its trials.
    """
    assert file.search is not None
    done = [(trial.value, trial) for trial in trials
            if trial.state == COMPLETE and trial.value is not None]  # fmt: skip
    if not done:
        return None
    better = min if file.metrics[file.search.metric] == "min" else max
    return better(done, key=lambda item: item[0])[1]


def trials_left(file: SweepFile) -> int:
    """Return how many trials of a search have not ended; 0 without a search.

    Args:
        file: the sweep.
    """
    if file.search is None:
        return 0
    ended = [t for t in read_trials(sweeps_root() / file.name) if t.state != RUNNING]
    return max(0, file.search.trials - len(ended))


def describe_search(file: SweepFile, heading: str = "", indent: str = "") -> list[str]:
    """Say what a search chooses from, how far it is, and what is best; nothing without one.

    Args:
        file: the sweep.
        heading: stands before the first line.
        indent: stands before the others.
    """
    search = file.search
    if search is None:
        return []
    trials = read_trials(sweeps_root() / file.name)
    counts = [f"{sum(t.state == state for t in trials)} {state}"
              for state in (COMPLETE, PRUNED, FAILED, RUNNING)
              if any(t.state == state for t in trials)]  # fmt: skip
    lines = [
        f"{heading}search by {search.sampler}, {search.trials} trials: "
        f"{', '.join(counts) or 'none begun'}"
    ]
    for key, of in file.space.items():
        lines.append(f"{indent}{key}: {_describe(of)}")
    if search.pruner != "none":
        lines.append(f"{indent}pruned by the {search.pruner} of val/loss")
    if left := trials_left(file):
        seeds = f" of {len(file.seeds)} seeds each" if len(file.seeds) > 1 else ""
        lines.append(f"{indent}{left} of them left to train{seeds}")
    if best := best_of(file, trials):
        name, value = row_of(best.values, best.number).name, best.value
        lines.append(f"{indent}best {search.metric} {value:.5g}: {name}")
    return lines


def _describe(of: Range | tuple[Any, ...]) -> str:
    if not isinstance(of, Range):
        return ", ".join(format_value(option) for option in of)
    step = f" in steps of {of.step:g}" if of.step else ""
    return f"{of.low:g} to {of.high:g}{', logarithmic' if of.log else ''}{step}"
