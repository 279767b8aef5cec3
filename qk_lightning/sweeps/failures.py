"""Failed runs: they keep their reason, stay as they are until asked for, and alike ones stop all.

A run that fails is no news the second time: the same sweep leaves it and what needs it alone,
unless `--retry failed` is given. What was stopped or interrupted is no failure and always goes on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from qk_lightning.config.atomic import write_text
from qk_lightning.config.run_folder import RunFolder
from qk_lightning.sweeps.graph import Graph, PlannedRun
from qk_lightning.sweeps.worker import ERROR_FILE, LOG_FILE

FAIL_FAST = 2
LOG_LINES = 40
NO_REASON = "no reason was kept"
# Paths, addresses and numbers differ between members that fail for one reason.
QUOTED = re.compile(r"""(['"`]).*?\1""")
PATH = re.compile(r"(?:[\w.~-]*/)+[\w.~-]*")
NUMBER = re.compile(
    r"\b0x[0-9a-fA-F]+\b|\b[0-9a-f]{8,}\b|-?\d[\d.,]*(?:e[+-]?\d+)?(?: ?[KMGT]i?B)?"
)


def mark_failed(graph: Graph, retry: bool = False) -> None:
    """Mark the runs that failed before, so that they are left as they are.

    Args:
        graph: the runs; `failed` is set.
        retry: mark none: they are tried again.
    """
    for run in graph.values():
        status = {} if run.done or retry else run.folder.status
        failed = status.get("state") == "failed"
        run.failed = _first_line(status.get("error")) if failed else ""


def _first_line(text: object) -> str:
    lines = str(text or "").strip().splitlines()
    if len(lines) > 1 and lines[0].endswith(("problem:", "problems:")):
        return f"{lines[0].partition(':')[0]}: {lines[1].strip().removeprefix('- ')}"
    return lines[0] if lines else NO_REASON


def describe_begun(runs: Iterable[PlannedRun]) -> str:
    """Say how far runs are that were stopped, and how many failed.

    Those that were stopped go on from their last checkpoints, if they have any.

    Args:
        runs: runs of one kind; those that are done are left out.

    Returns:
        What to add to their number, "" where there is nothing to say.
    """
    left = [run for run in runs if not run.done]
    failed = sum(bool(run.failed) for run in left)
    steps = [step for run in left if (step := run.folder.last_checkpoint_step)]
    lost = [run for run in left
            if not run.folder.last_checkpoint_step and run.folder.status.get("step")]  # fmt: skip
    words = [f", 1 at step {steps[0]}" if len(steps) == 1 else f", {len(steps)} begun"] * bool(
        steps
    )
    words += [f", {len(lost)} interrupted without a checkpoint"] * bool(lost)
    return "".join([*words, f", {failed} failed" if failed else ""])


def describe_left(runs: Iterable[PlannedRun], how: str) -> list[str]:
    """Name the runs that failed before and are left as they are, and how to try them again.

    Args:
        runs: all runs.
        how: the command.
    """
    failed = [run for run in runs if run.failed]
    if not failed:
        return []
    lines = [f"failed: {run.label}: {run.failed}; see {run.folder.path}" for run in failed]
    return [*lines, f"what failed, and what needs it, is left as it is; try it again: {how}"]


def keep_reason(folder: RunFolder, error: str) -> None:
    """Write error.txt for a process that died without a traceback: why, and its last words.

    Args:
        folder: the run's folder.
        error: how the process ended.
    """
    file = folder.path / ERROR_FILE
    if file.is_file():
        return
    log = folder.path / LOG_FILE
    lines = log.read_text(errors="replace").splitlines()[-LOG_LINES:] if log.is_file() else []
    write_text(file, "\n".join([error, "", f"the end of {LOG_FILE}:", *lines, ""]))


def likeness(error: str) -> str:
    """Return what is left of an error without numbers, paths and quoted names.

    Args:
        error: `<type>: <message>`, or how a process ended.

    Returns:
        A text that is equal for errors that are alike.
    """
    for pattern in (QUOTED, PATH, NUMBER):
        error = pattern.sub("_", error)
    return " ".join(error.split())


class FailFast:
    """Counts failures that are alike.

    Args:
        limit: so many stop a sweep; 0 for never.
    """

    def __init__(self, limit: int = FAIL_FAST) -> None:
        self.limit = limit
        self._labels: dict[str, list[str]] = {}

    def add(self, label: str, error: str) -> str:
        """Count a failure.

        Args:
            label: the run.
            error: why it failed.

        Returns:
            Why the sweep stops, "" while it goes on.
        """
        labels = self._labels.setdefault(likeness(error), [])
        labels.append(label)
        if not self.limit or len(labels) < self.limit:
            return ""
        runs = "a run" if len(labels) == 1 else f"{len(labels)} runs"
        alike = " alike" if len(labels) > 1 else ""
        return (
            f"{runs} failed{alike} ({'; '.join(labels)}): {error}; no further run is started "
            f"(--fail-fast {self.limit}; --fail-fast 0 goes on)"
        )
