"""What came of a sweep, for people: how its runs ended, where the report is, how to go on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qk_lightning.sweeps.execute import Outcome
from qk_lightning.sweeps.plan import SweepPlan
from qk_lightning.tracking.mlflow_missed import count_missed

NOTHING_YET = "nothing to compare yet: no run that the rows do not share is finished"


@dataclass(frozen=True)
class SweepResult:
    """A sweep after its runs.

    Args:
        plan: the sweep, with what is done marked in its graph.
        outcome: how the runs ended.
        report: the report in Markdown.
        result: what `result.json` holds; its `summary` is the table as text.
        mlflow_uri: address of the MLflow store, None where tracking is off.
        tracking_error: why the sweep's own MLflow run could not be written, "" if it was.
    """

    plan: SweepPlan
    outcome: Outcome
    report: Path
    result: dict[str, Any]
    mlflow_uri: str | None
    tracking_error: str = ""

    @property
    def exit_status(self) -> int:
        """0 if all went well, 1 after failures, 130 if it was stopped; MLflow is only a view."""
        return self.outcome.exit_status

    def describe(self) -> str:
        """Say how it went: the table, failures, where report and store are."""
        lines = [self.result["summary"] or NOTHING_YET, ""]
        lines += describe_failures(self.plan, self.outcome)
        lines += describe_again(self.plan, self.outcome)
        if self.outcome.interrupted:
            lines.append("stopped; finished runs are kept, and the same command goes on from here")
        lines += [f"not in MLflow: {self.tracking_error}"] if self.tracking_error else []
        if missed := count_missed(run.folder for run in self.plan.graph.values()):
            lines.append(f"MLflow lacks some of {missed} runs: qk track sync")
        lines.append(f"report  {self.report}")
        if self.mlflow_uri:
            lines.append(f"MLflow  {self.mlflow_uri}")
            lines.append("        qk ui")
        return "\n".join(lines)


def describe_failures(plan: SweepPlan, outcome: Outcome) -> list[str]:
    """Name the runs that failed, and those that were skipped for it.

    Args:
        plan: the sweep.
        outcome: how its runs ended.
    """
    lines = []
    for identity, error in {**outcome.left, **outcome.failed}.items():
        run, when = plan.graph[identity], " before" * (identity in outcome.left)
        lines.append(f"failed{when}: {run.label}: {error}; traceback and log in {run.folder.path}")
        skipped = [plan.graph[item].label for item, cause in outcome.skipped.items()
                   if cause == identity]  # fmt: skip
        if skipped:
            lines.append(f"skipped for it: {', '.join(skipped)}")
    return lines


def describe_again(plan: SweepPlan, outcome: Outcome) -> list[str]:
    """Say why runs were not started, what was stopped from outside, and how to try failures again.

    Args:
        plan: the sweep.
        outcome: how its runs ended.
    """
    stopped = [f"stopped: {plan.graph[identity].label}: {why}; the same command goes on with it"
               for identity, why in outcome.stopped.items()]  # fmt: skip
    given_up = [f"given up: {outcome.given_up}"] if outcome.given_up else []
    again = []
    if outcome.failed or outcome.left:
        command = plan.command("--retry failed")
        again = [f"what failed is left as it is until it is asked for: {command}"]
    return [*stopped, *given_up, *again]
