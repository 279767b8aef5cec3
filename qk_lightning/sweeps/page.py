"""The report as one HTML file that needs no network: tables, plots, samples, cost, commands.

Everything that a user or a world wrote (names, prompts, values) is escaped, and the page's policy
lets nothing be fetched.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from qk_lightning.config.atomic import write_text
from qk_lightning.sweeps.contents import Contents
from qk_lightning.sweeps.costs import format_large, total
from qk_lightning.sweeps.embed import embed_all
from qk_lightning.sweeps.markdown import introduction, reading
from qk_lightning.sweeps.page_plots import cost_plots, loss_plot, metric_plots
from qk_lightning.sweeps.page_style import CSS, JS, POLICY
from qk_lightning.sweeps.page_table import stage_table, words_table
from qk_lightning.sweeps.plan import SweepPlan, format_seconds
from qk_lightning.sweeps.reproduce import code_notes, reproduce_cells
from qk_lightning.sweeps.results import RunResult, TableRow
from qk_lightning.sweeps.tables import other_code

PAGE_FILE = "report.html"


def write_page(contents: Contents, chance: Mapping[str, tuple[str, float]]) -> None:
    """Write `report.html` into the sweep's folder.

    Args:
        contents: what it tells.
        chance: name and value of the level that plots show, by metric.
    """
    plan, table = contents.plan, contents.table
    pictures = {stage: plan.folder / name for stage, name in contents.grids.items()}
    sections = {
        "Results": _results(contents),
        "Metrics by the swept option": _plots(metric_plots(plan.file, table, chance)),
        "Quality against cost": _quality(plan, table),
        "Loss curves": _curves(plan, contents.results),
        "Samples": _samples(plan, pictures),
        "Cost": _cost(plan),
        "How to make it again": _again(plan),
    }
    shown = {title: text for title, text in sections.items() if text}
    links = "".join(f'<a href="#{_anchor(title)}">{escape(title)}</a>' for title in shown)
    body = "\n".join(
        f'<h2 id="{_anchor(title)}">{escape(title)}</h2>\n{text}' for title, text in shown.items()
    )
    name = escape(plan.file.name)
    write_text(
        plan.folder / PAGE_FILE,
        "<!doctype html>\n"
        f'<html lang="en"><head><meta charset="utf-8"><title>Sweep {name}</title>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f'<meta name="viewport" content="width=device-width"><style>{CSS}</style></head>\n'
        f"<body><h1>Sweep {name}</h1>\n{_head(plan, contents.failures)}<nav>{links}</nav>\n"
        f"{body}\n<script>{JS}</script></body></html>\n",
    )


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def _head(plan: SweepPlan, failures: Sequence[str]) -> str:
    text = _list(introduction(plan).split("\n"))
    warnings = [*code_notes(plan), *failures]
    if warnings:
        text += f'<div class="warning">{_list(warnings)}</div>\n'
    return text


def _list(lines: Sequence[str]) -> str:
    """Write lines of the Markdown report as a list."""
    return "<ul>" + "".join(f"<li>{_marked(line)}</li>" for line in lines) + "</ul>\n"


def _marked(line: str) -> str:
    """Escape a line, and then give its marks of emphasis and code the tags they stand for."""
    text = escape(line.removeprefix("- ")).replace("\\*", "&#42;")
    for pattern, tag in ((r"`([^`]+)`", "code"), (r"\*\*(.+?)\*\*", "b"), (r"\*(.+?)\*", "em")):
        text = re.sub(pattern, rf"<{tag}>\1</{tag}>", text)
    return text


def _results(contents: Contents) -> str:
    plan, table, levels = contents.plan, contents.table, contents.levels
    if not table:
        return "<p>No finished run has one of the sweep's metrics yet.</p>"
    blocks = ["<p>A click on a heading sorts; the pointer on a difference shows its p values.</p>"]
    for stage, rows in contents.rows_by_stage.items():
        blocks += [f"<h3>{escape(stage)}</h3>", stage_table(plan.file, rows, levels[stage])]
        blocks += [f"<p>{escape(line)}</p>" for line in other_code(rows)]
    blocks += ["<details open><summary>How to read it</summary>"]
    blocks += [_list(reading(plan, table, levels).split("\n")), "</details>"]
    return "\n".join(blocks)


def _plots(plots: Mapping[str, str]) -> str:
    if not plots:
        return ""
    return '<div class="plots">' + "".join(f"<div>{svg}</div>" for svg in plots.values()) + "</div>"


def _quality(plan: SweepPlan, table: Sequence[TableRow]) -> str:
    stages = list(dict.fromkeys(row.stage for row in table))
    rows = [row for row in table if row.stage == stages[-1]] if stages else []
    plots = _plots(cost_plots(plan.file, rows))
    about = (
        f"{stages[-1] if stages else ''}: means with their intervals over seeds. The dashed line "
        "joins the rows that no cheaper one equals; it says nothing about what is shown to differ."
    )
    counted = any(row.chain_cost.flops for row in rows)
    about += "" if counted else " Training FLOPs were not counted in these runs."
    return f"<p>{escape(about)}</p>{plots}" if plots else ""


def _curves(plan: SweepPlan, results: Sequence[RunResult]) -> str:
    plots = {}
    for stage in plan.stages:
        here = [item for item in results if item.stage == stage]
        if svg := loss_plot(here):
            units = len({item.loss_units for item in here})
            note = " (rows of other autoencoders or objectives do not compare)" * (units > 1)
            plots[stage] = f"<h3>{escape(stage + note)}</h3>{svg}"
    return _plots(plots)


def _samples(plan: SweepPlan, pictures: Mapping[str, Path]) -> str:
    if not pictures:
        return ""
    about = "The same prompts, input images and noise in every row; seed"
    blocks = [f"<p>{about} {plan.file.seeds[0]}.</p>"]
    for stage, (uri, note) in embed_all(pictures).items():
        blocks.append(f'<h3>{escape(stage)}</h3><img src="{uri}" alt="samples of {escape(stage)}">')
        blocks += [f"<p>{escape(note)}</p>"] if note else []
    return "\n".join(blocks)


def _cost(plan: SweepPlan) -> str:
    cost, done = total(plan), sum(run.done for run in plan.graph.values())
    seconds = "-" if cost.seconds is None else format_seconds(cost.seconds)
    lines = [
        f"finished runs: {done} of {len(plan.graph)}, each counted once",
        f"time of all runs together: {seconds}, with up to {plan.slots} at once",
        f"images trained on: {format_large(cost.images)}",
        f"training FLOPs: {format_large(cost.flops, 'FLOP')}",
        "of each row: the last columns of the tables above, a mean over seeds of that stage's run",
    ]
    return _list(lines)


def _again(plan: SweepPlan) -> str:
    every = escape(f"{plan.command()}\n{plan.command('--plan')}")
    cells = reproduce_cells(plan)
    return (
        f"<p>All of it, or what is left of it:</p><pre>{every}</pre>\n"
        "<p>One member alone: its runs have the same identities, so what is done is not done "
        f"again.</p>\n{words_table(cells, ('command', 'runs', 'code'))}"
    )
