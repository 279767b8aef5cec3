"""The report of a sweep: report.md, .html and .tex, results.csv, table.csv, plot.png, grids.

Written anew only when the runs, the sweep file or the code that writes it have changed:
`result.json` keeps a hash of all three, and the table for the terminal.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from qk_lightning.config.atomic import aside, write_json, write_text
from qk_lightning.config.locks import FolderLock
from qk_lightning.evaluation.levels import EVALUATIONS, FINAL, SUMMARY, Levels
from qk_lightning.sweeps.contents import Contents
from qk_lightning.sweeps.file import format_value
from qk_lightning.sweeps.latex import LATEX_FILE, compose_latex
from qk_lightning.sweeps.markdown import compose_markdown
from qk_lightning.sweeps.page import PAGE_FILE, write_page
from qk_lightning.sweeps.plan import SweepPlan
from qk_lightning.sweeps.plots import write_plot
from qk_lightning.sweeps.reproduce import code_notes
from qk_lightning.sweeps.results import (
    RunResult,
    TableRow,
    collect_results,
    describe_unmeasured,
    make_table,
    reference_levels,
)
from qk_lightning.sweeps.tables import to_text
from qk_lightning.tracking.sample_grid import write_sample_grid

RESULT_FILE = "result.json"
REPORT_FILE = "report.md"
FILES = (REPORT_FILE, PAGE_FILE, LATEX_FILE)
TABLES = ("results.csv", "table.csv")
# The modules that decide what a report says.
MODULES = (
    "compare", "comparable", "contents", "costs", "embed", "items", "latex", "markdown", "page",
    "page_plots", "page_style", "page_table", "plots", "report", "reproduce", "results",
    "statistics", "tables",
)  # fmt: skip


def write_report(plan: SweepPlan, failures: Sequence[str] = ()) -> dict[str, Any]:
    """Write a sweep's report, unless the one that stands there is of the same inputs.

    Args:
        plan: the sweep, with what is done marked in its graph.
        failures: lines on runs that failed or were skipped.

    A report is put aside, in `before-.../`, where none of its sweep's runs is done any more: its
    file or the kit has changed since.

    Returns:
        What `result.json` holds: `inputs` (the hash), `summary` (the table as text), and what
        the tracker shows of the sweep.
    """
    with FolderLock(plan.folder):
        inputs = hash_inputs(plan, failures)
        standing = read_result(plan)
        written = all((plan.folder / name).is_file() for name in FILES)
        if standing.get("inputs") == inputs and written:
            return standing
        if standing.get("summary") and not any(run.done for run in plan.graph.values()):
            _put_aside(plan.folder, str(standing.get("inputs")))
        return _write(plan, failures, inputs)


def _put_aside(folder: Path, inputs: str) -> None:
    """Keep a report whose runs are not those of today's sweep: nothing can write it again."""
    kept = folder / f"before-{inputs}"
    kept.mkdir(exist_ok=True)
    for name in (*FILES, *TABLES, "plot.png", "grids", RESULT_FILE):
        if (folder / name).exists():
            (folder / name).rename(kept / name)


def read_result(plan: SweepPlan) -> dict[str, Any]:
    """Return what the sweep's `result.json` holds, {} where there is none or it is damaged.

    Args:
        plan: the sweep.
    """
    file = plan.folder / RESULT_FILE
    try:
        return dict(json.loads(file.read_text())) if file.is_file() else {}
    except (ValueError, TypeError):  # it is written anew
        return {}


def hash_inputs(plan: SweepPlan, failures: Sequence[str] = ()) -> str:
    """Hash everything that a report is made of.

    Args:
        plan: the sweep.
        failures: lines on runs that failed or were skipped.
    """
    digest = hashlib.sha256(_code().encode())
    sweep = {key: value for key, value in asdict(plan.file).items() if key != "path"}
    digest.update(json.dumps([sweep, list(failures)], sort_keys=True, default=str).encode())
    for identity, run in plan.graph.items():
        digest.update(f"{identity} {run.folder.name} {run.done}".encode())
        digest.update(json.dumps(plan.changes.get(identity, [])).encode())
        if not run.done:
            continue
        files = [
            run.folder.path / name for name in ("metrics.csv", "parameters.json", "status.json")
        ]
        files += sorted((run.folder.path / EVALUATIONS / FINAL).glob(f"*/{SUMMARY}"))
        files += [run.folder.provenance_json, run.folder.sources_json]
        for file in files:
            digest.update(file.read_bytes() if file.is_file() else b"-")
        for picture in sorted(run.folder.samples.glob("final/*")):
            digest.update(f"{picture.name} {picture.stat().st_mtime_ns}".encode())
    return digest.hexdigest()[:16]


@functools.cache
def _code() -> str:
    """Hash the modules that write reports."""
    here = Path(__file__).parent
    files = [here / f"{name}.py" for name in MODULES]
    others = ("tracking/sample_grid", "evaluation/levels", "evaluation/markdown_table")
    files += [here.parent / f"{name}.py" for name in others]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _write(plan: SweepPlan, failures: Sequence[str], inputs: str) -> dict[str, Any]:
    results = collect_results(plan)
    failures = [*failures, *describe_unmeasured(plan, results)]
    table = make_table(plan, results)
    stages = dict.fromkeys(row.stage for row in table)
    levels = {stage: reference_levels(plan, results, stage) for stage in stages}
    write_csv(plan.folder / TABLES[0], _result_lines(plan, results))
    write_csv(plan.folder / TABLES[1], _table_lines(plan, table))
    chance = _chance(levels)
    has_plot = write_plot(plan.folder / "plot.png", plan.file, table, chance)
    contents = Contents(plan, results, table, levels, failures, _write_grids(plan, results))
    write_text(plan.folder / REPORT_FILE, compose_markdown(contents, has_plot))
    write_text(plan.folder / LATEX_FILE, compose_latex(plan.file, table, code_notes(plan)))
    write_page(contents, chance)
    summary = "\n".join(
        to_text(plan.file, rows, levels[stage]) for stage, rows in contents.rows_by_stage.items()
    )
    summary = "\n".join([summary, *describe_unmeasured(plan, results)])
    result = {
        "inputs": inputs,
        "name": plan.file.name,
        "experiment": next((str(m.chain[-1].cfg.tracking.experiment) for m in plan.members), ""),
        "summary": summary,
        "axes": {axis: list(options) for axis, options in plan.file.axes.items()},
        "table": [row.to_dict() for row in table],
        "levels": levels,
        "runs": _run_links(plan),
    }
    write_json(plan.folder / RESULT_FILE, result)
    return result


def _chance(levels: Mapping[str, Levels]) -> dict[str, tuple[str, float]]:
    """Return the level of shuffled prompts by metric, for the plot; the same in all stages."""
    return {
        metric: ("chance", beside["shuffled"])
        for of_stage in levels.values()
        for metric, beside in of_stage.items()
        if "shuffled" in beside
    }


def write_csv(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    """Write dicts of the same keys as a CSV file.

    Args:
        path: the file.
        lines: the rows; none leaves an empty file.
    """
    with aside(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as handle:
        if lines:
            writer = csv.DictWriter(handle, list(lines[0]))
            writer.writeheader()
            writer.writerows(lines)
        else:
            handle.write("")


def _axis_cells(plan: SweepPlan, values: dict[str, Any]) -> dict[str, str]:
    return {axis: format_value(values[axis]) if axis in values else "" for axis in plan.file.axes}


def _result_lines(plan: SweepPlan, results: Sequence[RunResult]) -> list[dict[str, Any]]:
    return [
        {
            "row": result.row.name,
            "control": result.row.control,
            **_axis_cells(plan, result.row.values),
            "seed": result.seed,
            "stage": result.stage,
            "run": result.folder.name,
            "metric": metric,
            "value": value,
            "files_changed_since": len(result.changes),
        }
        for result in results
        for metric, value in result.metrics.items()
    ]


def _table_lines(plan: SweepPlan, table: Sequence[TableRow]) -> list[dict[str, Any]]:
    lines = []
    for row in table:
        for metric, goal in plan.file.metrics.items():
            summary, difference = row.metrics[metric], row.differences[metric]
            between = difference.summary if difference else None
            lines.append(
                {
                    "stage": row.stage,
                    "row": row.row,
                    "control": row.control,
                    **_axis_cells(plan, row.values),
                    "metric": metric,
                    "goal": goal,
                    "seeds": summary.count if summary else 0,
                    "mean": summary.mean if summary else None,
                    "sd": summary.sd if summary else None,
                    "low": summary.low if summary else None,
                    "high": summary.high if summary else None,
                    "compared_with": row.against,
                    "difference": between.mean if between else None,
                    "difference_low": between.low if between else None,
                    "difference_high": between.high if between else None,
                    "p_value": difference.p_value if difference else None,
                    "adjusted_p_value": difference.adjusted_p if difference else None,
                    "arms": difference.arms if difference else None,
                    "detectable_difference": difference.detectable if difference else None,
                    "interval_over": difference.basis if difference else None,
                    "borderline": difference.borderline if difference else None,
                    "verdict": difference.verdict if difference else None,
                    "trainable_parameters": row.trainable,
                    "parameters": row.total,
                    "seconds_per_step": row.seconds_per_step,
                    "seconds": row.cost.seconds,
                    "images": row.cost.images,
                    "training_flops": row.cost.flops,
                    "files_changed_since": len(row.other_code),
                }
            )
    return lines


def _write_grids(plan: SweepPlan, results: Sequence[RunResult]) -> dict[str, str]:
    """Draw the first seed's samples of each stage; return the file by stage."""
    grids = {}
    seed = plan.file.seeds[0]
    for stage in plan.stages:
        here = [item for item in results if item.stage == stage and item.seed == seed]
        samples = {item.row.name: item.folder.samples for item in here}
        shared = {item.folder.name for item in here}
        if len(shared) == 1 and len(samples) > 1:
            samples = {"all rows": here[0].folder.samples}
        name = f"grids/{stage}.png"
        if write_sample_grid(plan.folder / name, samples):
            grids[stage] = name
    return grids


def _run_links(plan: SweepPlan) -> list[dict[str, Any]]:
    """List the runs with the members they belong to, for the tracker."""
    return [
        {
            "identity": identity,
            "folder": str(run.folder.path),
            "stage": run.plan.stage,
            "done": run.done,
            "members": run.users,
        }
        for identity, run in plan.graph.items()
    ]
