"""`qk fit`, `qk sweep` and `qk report`."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

from qk_lightning.cli.sweep_options import run_options
from qk_lightning.config.chain import StagePlan, plan_chain
from qk_lightning.config.disk_space import check_writable
from qk_lightning.config.errors import ConfigError, Problem, did_you_mean
from qk_lightning.config.exported_folder import ExportedFolder
from qk_lightning.config.layers import full_key
from qk_lightning.config.paths import (
    check_folder,
    find_preset,
    list_presets,
    runs_root,
    sweeps_root,
)
from qk_lightning.config.rank_variables import started_rank
from qk_lightning.config.resume import step_gone_on_from
from qk_lightning.config.run_folder import RunFolder
from qk_lightning.evaluation.levels import MEANINGS, NAMES, in_order, read_levels
from qk_lightning.sweeps.execute import run_chain
from qk_lightning.sweeps.graph import Graph, PlannedRun, build_graph, makespan
from qk_lightning.sweeps.keep_file import SWEEP_COPY
from qk_lightning.sweeps.launch import follow
from qk_lightning.sweeps.page import PAGE_FILE
from qk_lightning.sweeps.plan import format_seconds, plan_members, plan_sweep
from qk_lightning.sweeps.preflight import check
from qk_lightning.sweeps.probe import plan_probe
from qk_lightning.sweeps.redo import as_new, describe_redo, forget, plan_redo
from qk_lightning.sweeps.report import REPORT_FILE, write_report
from qk_lightning.sweeps.run import redo_sweep, run_sweep, with_options
from qk_lightning.tracking.mlflow_store import check_tracking
from qk_lightning.tracking.provenance import describe_changes, source_changes

UNCHECKED = "parts, data and tasks are checked at the start, or now: --check"


def fit(options: argparse.Namespace) -> int:
    """Train one preset and the ancestors that are missing.

    Args:
        options: the parsed command line.

    Returns:
        0, 1 after a failure, 130 after Ctrl-C.
    """
    check_folder("runs", runs_root())
    plans = plan_chain(options.preset, options.overrides)
    for plan in plans:
        check_tracking(plan.cfg)
        check_writable(plan.folder.path)
    graph: Graph = build_graph([("", plans)])
    doomed: list[PlannedRun] = []
    if options.redo:
        changed = [plan.identity for plan in plans if source_changes(plan.folder)]
        graph, doomed = plan_redo(graph, changed)
    print("\n".join([*describe_chain(list(graph.values())), *describe_redo(doomed)]))
    if options.check:
        return _check_only(plans)
    if options.plan:
        print(UNCHECKED)
        return 0
    if not all(run.done for run in graph.values()):
        print("loading the libraries", flush=True)
    check(as_new(run for run in graph.values() if not run.done))
    if started_rank(plans[-1].cfg.trainer.devices):
        return follow(graph.values())
    forget(doomed)
    outcome = run_chain(plans)
    last = plans[-1].folder
    if outcome.exit_status == 0:
        print("\n".join(describe_scores(last)))
        print(f"\nrun folder  {last.path}")
    elif outcome.interrupted:
        left = next((plan.folder for plan in plans if not plan.folder.is_done), last)
        step = left.last_checkpoint_step
        where = f"from step {step}" if step else "from its start: no step was kept"
        print(f"stopped; the same command goes on with {left.name} {where}")
    return outcome.exit_status


def describe_chain(runs: Sequence[PlannedRun]) -> list[str]:
    """Say which stages will run and which are done.

    Args:
        runs: first ancestor first; whether each is done stands in it.

    Returns:
        Lines.
    """
    lines = []
    for run in runs:
        plan, folder = run.plan, run.folder
        if isinstance(plan.parent_folder, ExportedFolder):
            lines.append(_describe_exported(plan.parent_folder))
        if run.done:
            changed = source_changes(folder)
            why = f"by other code ({describe_changes(changed)}; --redo)" if changed else ""
            state = f"done, {why}" if changed else "done"
        else:
            state = _describe_left(run)
        lines.append(f"{plan.stage:<12} {folder.name:<36} {state}")
        if folder.name != f"{plan.cfg.name}-{plan.identity}":
            unused = f"name={plan.cfg.name} is not used"
            lines.append(f"{'':<12} (the same run as {folder.name}, so {unused})")
        if plan.overrides:
            lines.append(f"{'':<12} with {', '.join(map(_said_of(plan), plan.overrides))}")
    seconds = makespan({run.identity: run for run in runs}, 1)
    if seconds:
        lines.append(f"estimated time: {format_seconds(seconds)}")
    return lines


def _said_of(plan: StagePlan) -> Callable[[str], str]:
    """Return what shows an override, with the part that it takes the place of."""

    def shown(text: str) -> str:
        """Write one override."""
        old = plan.replaced.get(full_key(text.partition("=")[0].strip()))
        return f"{text} (was {old})" if old else text

    return shown


def _describe_left(run: PlannedRun) -> str:
    """Say how much of a run is to be trained: all of it, or what is left."""
    folder, steps = run.folder, f"{run.plan.cfg.trainer.max_steps} steps"
    if folder.is_done:  # and to be done again
        return f"runs ({steps})"
    if step := step_gone_on_from(folder, run.plan.cfg):
        return f"goes on from step {step}"
    if folder.checkpoint_files():
        return f"runs ({steps}); what is there is set aside"
    if step := folder.status.get("step", 0):
        return f"runs ({steps}); interrupted at step {step}, no checkpoint: starts again"
    return f"runs ({steps})"


def describe_scores(run: RunFolder) -> list[str]:
    """Say what a finished run measured, and what that is to be seen against.

    Args:
        run: its folder.

    Returns:
        A line a metric.
    """
    levels = read_levels(run.path)
    lines = []
    shown: dict[str, float] = {}
    for metric, value in sorted(run.last_metrics().items()):
        if metric.startswith(("val/", "eval/")):
            controls = in_order(levels.get(metric, {}))
            shown |= controls
            beside = [f"{NAMES[control]} {level:.3g}" for control, level in controls.items()]
            lines.append(f"{metric:<40}{value:>12.5g}   {', '.join(beside)}".rstrip())
    lines += ["beside a score stands what it would be for"] if shown else []
    return lines + [f"  {NAMES[control]}: {MEANINGS[control]}" for control in in_order(shown)]


def _check_only(plans: Sequence[StagePlan]) -> int:
    """See that parts, data and tasks fit together; nothing is trained.

    Raises:
        ConfigError: with everything that is wrong.
    """
    print("checking that parts, data and tasks fit together (this loads the libraries)", flush=True)
    check(plans, here=False)
    print("they do; nothing was started")
    return 0


def _describe_exported(folder: ExportedFolder) -> str:
    made = f", exported from {folder.origin}" if folder.origin else ""
    return f"{'parent':<12} {folder.path} (weights {folder.identity}{made})"


def sweep(options: argparse.Namespace) -> int:
    """Train and compare all members of a sweep.

    Args:
        options: the parsed command line.

    Returns:
        0, 1 after a failure, 130 after Ctrl-C.
    """
    file, how = sweep_file(options.file), run_options(options)
    print(f"planning {file}", flush=True)  # a large sweep is composed for seconds
    if options.plan or options.check:
        plan, doomed = with_options(plan_sweep(file, options.overrides), how), []
        if options.redo:
            plan, doomed = redo_sweep(plan)
        print("\n".join([plan.describe(), *describe_redo(doomed)]))
        if options.check:
            probe = [stage for m in plan_probe(plan.file, plan_members) for stage in m.chain]
            return _check_only(probe or [run.plan for run in plan.to_start])
        print(UNCHECKED)
        return 0
    check_folder("runs", runs_root())
    return run_sweep(file, options.overrides, redo=options.redo, options=how).exit_status


def sweep_file(text: str) -> Path:
    """Find a sweep by file, by its name under `sweeps/`, or by the name of one that was run.

    Args:
        text: what the user typed.

    Returns:
        The file.

    Raises:
        ConfigError: there is no such sweep.
    """
    kept = sweeps_root() / text / SWEEP_COPY
    for name in (text, f"sweeps/{text}"):
        with contextlib.suppress(ConfigError):
            return find_preset(name)
    if kept.is_file():
        return kept
    known = [name.removeprefix("sweeps/") for name in list_presets() if name.startswith("sweeps/")]
    known += [file.parent.name for file in sweeps_root().glob(f"*/{SWEEP_COPY}")]
    fix = did_you_mean(text.removeprefix("sweeps/"), known)
    raise ConfigError(Problem("sweep", text, "a sweep's name, or a YAML file", fix))


def report(options: argparse.Namespace) -> int:
    """Write a sweep's report again.

    Args:
        options: the parsed command line.

    Returns:
        0.
    """
    file = sweep_file(options.sweep)
    print(f"reading the runs of {file}", flush=True)  # for seconds, if the sweep is large
    plan = plan_sweep(file)
    result = write_report(plan)
    print(result["summary"] or f"no finished run yet: qk sweep {options.sweep}")
    print(f"\nreport  {plan.folder / REPORT_FILE}")
    print(f"page    {plan.folder / PAGE_FILE}")
    return 0
