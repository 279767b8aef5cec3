"""Sweeps from a notebook: from a file, from values in a cell, or from an earlier sweep."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from qk_lightning.api.comparison import Comparison
from qk_lightning.api.training import see_edits
from qk_lightning.cli.train import sweep_file
from qk_lightning.config.paths import sweeps_root
from qk_lightning.sweeps.ended import describe_failures
from qk_lightning.sweeps.engine import RunOptions
from qk_lightning.sweeps.file import SWEEP_COPY, SweepFile
from qk_lightning.sweeps.plan import plan_sweep
from qk_lightning.sweeps.reader import parse_sweep
from qk_lightning.sweeps.report import RESULT_FILE, write_report
from qk_lightning.sweeps.run import run_sweep


def sweep(
    sweep: str | Path | SweepFile | Mapping[str, Any],
    overrides: Sequence[str] = (),
    *,
    redo: bool = False,
    retry: bool = False,
    plain: bool | None = None,
    write: Callable[[str], None] = print,
) -> Comparison:
    """Train all members of a sweep that are not done, and compare them.

    Args:
        sweep: a sweep's name or file, the keys of a sweep file as a dict, or what
            `Comparison.with_values` made.
        overrides: further overrides for every member; they give the sweep a name of its own.
        redo: train again what was done by other code, and what came after it.
        retry: try again what failed before; else it is left as it is.
        plain: lines instead of a live display; None looks at the terminal (a notebook gets lines).
        write: prints the plan and the result.

    Returns:
        The comparison; `failures` names runs that failed, and the others are compared.

    Raises:
        ConfigError: with everything that is wrong, before anything is trained.
        KeyboardInterrupt: it was stopped; the same call goes on from here.
    """
    see_edits()
    plan = plan_sweep(_given(sweep), overrides)
    done = run_sweep(plan, redo=redo, plain=plain, write=write, options=RunOptions(retry))
    if done.outcome.interrupted:
        raise KeyboardInterrupt("stopped; the same call goes on from the last checkpoints")
    failures = describe_failures(done.plan, done.outcome)
    return Comparison(done.plan, done.result, failures)


def report(sweep: str | Path) -> Comparison:
    """Compare what is done of a sweep; trains nothing.

    Args:
        sweep: the name of a sweep that was run, or a sweep file.

    Returns:
        The comparison; its report is written anew if anything has changed.

    Raises:
        ConfigError: there is no such sweep, or its file is wrong.
    """
    see_edits()
    plan = plan_sweep(sweep_file(str(sweep)))
    return Comparison(plan, write_report(plan))


def list_sweeps() -> list[str]:
    """Return the names of the sweeps that have a report here, oldest first."""
    found = [file.parent for file in sweeps_root().glob(f"*/{RESULT_FILE}")]
    found = [folder for folder in found if (folder / SWEEP_COPY).is_file()]
    found.sort(key=lambda folder: (folder / RESULT_FILE).stat().st_mtime)
    return [folder.name for folder in found]


def _given(sweep: str | Path | SweepFile | Mapping[str, Any]) -> Path | SweepFile:
    if isinstance(sweep, SweepFile):
        return sweep
    return parse_sweep(sweep) if isinstance(sweep, Mapping) else sweep_file(str(sweep))
