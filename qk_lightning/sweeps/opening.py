"""What every sweep begins with, a search too: how it is run, its folders seen to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from qk_lightning.config.disk_space import check_writable
from qk_lightning.sweeps.plan import SweepPlan
from qk_lightning.tracking.mlflow_store import check_tracking


@dataclass(frozen=True)
class Conduct:
    """How a sweep is run, whatever its runs are.

    Args:
        plain: lines instead of the live display; None looks at the terminal.
        write: prints the plan and the result.
        target: "module:function" that trains a run folder.
        preload: module that the fork server imports before its first member.
        fail_fast: so many runs that fail alike end it; 0 for never.
        retry: try again what failed before.
    """

    plain: bool | None
    write: Callable[[str], None]
    target: str
    preload: str
    fail_fast: int
    retry: bool = False


def check_places(plan: SweepPlan) -> None:
    """See that all runs can be written and tracked where they are to be.

    Args:
        plan: the sweep.

    Raises:
        ConfigError: one cannot.
    """
    for member in plan.members:
        for stage in member.chain:
            check_tracking(stage.cfg)
            check_writable(stage.folder.path)
