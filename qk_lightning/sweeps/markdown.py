"""The text of a sweep's report: what was run, what it gave, and how far that can be trusted."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from omegaconf import OmegaConf

from qk_lightning.config.errors import ConfigError
from qk_lightning.config.paths import BUILTIN, resolve_path
from qk_lightning.evaluation.levels import MEANINGS, NAMES, in_order
from qk_lightning.evaluation.markdown_table import to_markdown
from qk_lightning.sweeps.budget import describe_budget
from qk_lightning.sweeps.contents import Contents
from qk_lightning.sweeps.file import format_value
from qk_lightning.sweeps.graph import PlannedRun
from qk_lightning.sweeps.plan import SweepPlan
from qk_lightning.sweeps.reproduce import code_notes, reproduce_cells
from qk_lightning.sweeps.results import RunResult, TableRow
from qk_lightning.sweeps.statistics import CONFIDENCE, MIN_SEEDS, NOTHING_SHOWN, POWER, SEEDS
from qk_lightning.sweeps.tables import (
    NamedLevels,
    format_parameters,
    other_code,
    stage_cells,
)
from qk_lightning.sweeps.trials import describe_search

CARD_LINES = 2


def compose_markdown(contents: Contents, has_plot: bool) -> str:
    """Write the report.

    Args:
        contents: what it tells.
        has_plot: whether `plot.png` was drawn.

    Returns:
        Markdown.
    """
    plan, failures = contents.plan, contents.failures
    blocks = [f"# Sweep {plan.file.name}", introduction(plan)]
    blocks += [f"> {note}" for note in code_notes(plan)]
    if failures:
        blocks += ["## Failures", "\n".join(f"- {line}" for line in failures)]
    for stage, rows in contents.rows_by_stage.items():
        cells = stage_cells(plan.file, rows, contents.levels[stage])
        blocks += [f"## {stage}", to_markdown(cells)]
        blocks += [line.replace("*", r"\*", 1) for line in other_code(rows)]
    if not contents.table:
        blocks += ["No finished run has one of the sweep's metrics yet."]
    blocks += [reading(plan, contents.table, contents.levels)]
    if has_plot:
        blocks += ["## Plot", "![metrics by the swept option](plot.png)"]
    if contents.grids:
        blocks += ["## Samples", _about_samples(plan)]
    for stage, name in contents.grids.items():
        blocks += [f"### {stage}\n\n![samples of {stage}]({name})"]
    blocks += ["## What was run", _stages(plan), *_weights(plan)]
    blocks += ["## Runs", _runs(plan, contents.results)]
    blocks += ["## How to make it again", f"`{plan.command()}`, or one member alone:"]
    blocks += [to_markdown(_quoted(reproduce_cells(plan)))]
    return "\n\n".join(block for block in blocks if block) + "\n"


def introduction(plan: SweepPlan) -> str:
    """Say what is compared, a line of Markdown each.

    Args:
        plan: the sweep.
    """
    file, done = plan.file, sum(run.done for run in plan.graph.values())
    axes = [
        " with ".join(
            f"`{axis}` in {', '.join(format_value(option) for option in file.axes[axis])}"
            for axis in file.along(first)
        )
        for first in file.axes
        if first == next(axis for axis in file.axes if axis in file.along(first))
    ]
    varied = " x ".join(axes) or ("rows by name" if file.listed else "no axis")
    lines = [
        f"- preset `{file.preset}` and its ancestors, {varied}",
        f"- seeds {', '.join(str(seed) for seed in file.seeds)}",
        f"- {done} of {len(plan.graph)} runs are done",
    ]
    if file.overrides:
        lines.append("- for every member: " + ", ".join(f"`{text}`" for text in file.overrides))
    for control in file.controls:
        overrides = ", ".join(f"`{text}`" for text in control.overrides)
        lines.append(f"- control `{control.name}`, beside the grid: {overrides or 'no overrides'}")
    for row in file.listed:
        lines.append(f"- row `{row.name}`: {', '.join(f'`{text}`' for text in row.overrides)}")
    if base := file.describe_baseline():
        lines.append(f"- baseline: {base}")
    lines += describe_budget(plan, "- budget: ", "    - ")
    lines += describe_search(file, "- ", "    - ")
    return "\n".join(lines)


def reading(plan: SweepPlan, table: Sequence[TableRow], levels: Mapping[str, NamedLevels]) -> str:
    """Say how to read the tables, a line of Markdown each.

    Args:
        plan: the sweep.
        table: the rows over seeds.
        levels: what scores are to be seen against, by stage.
    """
    percent = f"{100 * CONFIDENCE:.0f} %"
    lines = [
        f"- `mean ± half width`: {percent} t interval of the mean over seeds. It tells how far "
        "seeds differ, and not how far another data set would.",
        "- **bold**: the best mean of the grid. Whether it is better than another row, the "
        "differences say.",
        f"- difference: mean of the per-seed differences to the baseline with the same seed, its "
        f"{percent} paired t interval.",
        *verdict_notes(table),
        *_control_note(table),
    ]
    shown = {name for of in levels.values() for beside in of.values() for name in beside}
    seeds = " (mean over seeds)" if len(plan.file.seeds) > 1 else ""
    lines += [f"- *{NAMES[name]}*: {MEANINGS[name]}{seeds * (name == 'own_shuffled')}."
              for name in in_order(dict.fromkeys(shown, 0))]  # fmt: skip
    slots = plan.slots
    if slots > 1:
        lines.append(f"- seconds a step were measured while up to {slots} runs shared the machine.")
    if plan.changes:
        lines.append(r"- \* other code: the run was made by sources that differ from today's; "
                     "`--redo` trains it again.")  # fmt: skip
    return "\n".join(lines)


def verdict_notes(table: Sequence[TableRow]) -> list[str]:
    """Say what the verdicts of a table mean, those that it has.

    Args:
        table: the rows over seeds.
    """
    found = [one for row in table for one in row.differences.values() if one is not None]
    level = f"{1 - CONFIDENCE:.2g}"
    lines = []
    if arms := max((one.arms for one in found if one.adjusted_p is not None), default=0):
        lines.append(
            f"- *better*, *worse*: by the p value with Holm's correction over the arms of one "
            f"metric and stage (up to {arms} here), below {level}. The chance that any of them is "
            f"called different while none is, is below {level}; each interval stands for itself."
        )
    if any(one.verdict == NOTHING_SHOWN for one in found):
        lines.append(
            f"- *no difference shown (detectable: x)*: not that there is none. A true difference "
            f"of x would have been shown with {100 * POWER:.0f} % power, as far as the scatter of "
            "so few seeds tells."
        )
    if any(one.borderline for one in found):
        lines.append(
            "- *borderline*: the interval alone leaves 0 out, the corrected p value does not show "
            "a difference: more seeds would tell."
        )
    if any(one.basis != SEEDS for one in found):
        lines.append(
            "- *items, one seed* (or *2 seeds*): the t interval is over prompts, paired by prompt "
            "between just these runs. It tells how far other prompts would move the difference, "
            "and not what another seed would give, so there is no verdict."
        )
    if any(len(row.seeds) < MIN_SEEDS for row in table):
        lines.append(f"- With fewer than {MIN_SEEDS} seeds no interval over seeds is given and "
                     "nothing is tested.")  # fmt: skip
    return lines


def _quoted(lines: list[list[str]]) -> list[list[str]]:
    heading, *body = lines
    return [heading, *([cells[0], cells[1], f"`{cells[2]}`", *cells[3:]] for cells in body)]


def _control_note(table: Sequence[TableRow]) -> list[str]:
    if not any(row.control and row.against for row in table):
        return []
    return [
        "- A control that sets every axis is compared with the grid row of the same values, any "
        "other with the baseline; its line names the row."
    ]


def _about_samples(plan: SweepPlan) -> str:
    seed = plan.file.seeds[0]
    return f"The same prompts, input images and noise in every row; seed {seed}."


def _stages(plan: SweepPlan) -> str:
    lines = [["stage", "system", "steps", "samples a step", "trained", "minutes a run"]]
    for stage in plan.stages:
        runs = [run for run in plan.graph.values() if run.plan.stage == stage]
        cfg = runs[0].plan.cfg
        trained = [name if how == "full" else f"{name} (LoRA)"
                   for name, how in (cfg.get("trainable") or {}).items() if how]  # fmt: skip
        lines.append(
            [
                stage,
                str(cfg.system.name),
                _range(runs, "max_steps"),
                _range(runs, "global_batch_size"),
                ", ".join(trained) or "all",
                _minutes(runs),
            ]
        )
    return to_markdown(lines)


def _range(runs: Sequence[PlannedRun], key: str) -> str:
    return ", ".join(sorted({str(run.plan.cfg.trainer[key]) for run in runs}))


def _minutes(runs: Sequence[PlannedRun]) -> str:
    seconds = [float(run.folder.status["seconds"]) for run in runs
               if run.done and run.folder.status.get("seconds")]  # fmt: skip
    return f"{statistics.median(seconds) / 60:.1f} (median)" if seconds else "-"


def _weights(plan: SweepPlan) -> list[str]:
    """Say which weights were there before: results on top of them are not from scratch."""
    names: dict[str, None] = {}
    for run in plan.graph.values():
        values = OmegaConf.to_container(run.plan.cfg)
        names |= dict.fromkeys(text for text in _texts(values) if text.startswith(BUILTIN))
    if not names:
        return ["No pretrained weights were used."]
    lines = ["Pretrained weights that came with the package:", ""]
    for name in names:
        lines.append(f"- `{name}`: {_card(name)}")
    return ["\n".join(lines)]


def _card(name: str) -> str:
    try:
        card = resolve_path(name) / "CARD.md"
    except ConfigError:
        return "(not there any more)"
    if not card.is_file():
        return "(without a card)"
    lines = [line.strip("# ").strip() for line in card.read_text().splitlines() if line.strip()]
    return " ".join(line if line.endswith(".") else f"{line}." for line in lines[:CARD_LINES])


def _texts(values: Any) -> Iterator[str]:
    if isinstance(values, str):
        yield values
    elif isinstance(values, dict | list):
        for value in values.values() if isinstance(values, dict) else values:
            yield from _texts(value)


def _runs(plan: SweepPlan, results: Sequence[RunResult]) -> str:
    lines = [["run", "members", "parameters by part (trained / all)", "state"]]
    parameters = {result.folder.name: result.parameters for result in results}
    for run in plan.graph.values():
        parts = parameters.get(run.folder.name, {})
        counts = [
            f"{name} {format_parameters(part['trainable'])} / {format_parameters(part['total'])}"
            for name, part in parts.items()
            if part["total"]
        ]
        users = run.users if len(run.users) <= 4 else [*run.users[:3], f"{len(run.users) - 3} more"]
        state = "done" if run.done else run.folder.status.get("state", "planned")
        lines.append([f"`{run.folder.name}`", "; ".join(users), ", ".join(counts) or "-", state])
    return to_markdown(lines)
