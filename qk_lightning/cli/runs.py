"""`qk runs`: what was trained; removing a run, exporting one of its parts."""

from __future__ import annotations

import argparse
import json
import re

from qk_lightning.config.errors import ConfigError, Problem
from qk_lightning.config.find_runs import children_of, find_run, list_runs
from qk_lightning.config.locks import LockHeld
from qk_lightning.config.paths import runs_root, user_path
from qk_lightning.config.removal import check_removable
from qk_lightning.config.run_folder import RunFolder
from qk_lightning.tracking.mlflow_missed import describe_missed
from qk_lightning.tracking.provenance import describe_changes, source_changes
from qk_lightning.tracking.settings import describe_settings

NUM_ARGUMENTS = {"list": 0, "show": 1, "rm": 1, "export": 3}


def runs(options: argparse.Namespace) -> int:
    """List, show, remove or export.

    Args:
        options: the parsed command line.

    Returns:
        0.
    """
    wanted = NUM_ARGUMENTS[options.action]
    if len(options.arguments) != wanted:
        usage = {"show": "RUN", "rm": "RUN", "export": "RUN PART FOLDER"}.get(options.action, "")
        given = " ".join(options.arguments) or None
        expected = f"{wanted} argument(s)"
        fix = f"qk runs {options.action} {usage}"
        raise ConfigError(Problem(f"runs {options.action}", given, expected, fix))
    return {"list": _list, "show": _show, "rm": _remove, "export": _export}[options.action](
        *options.arguments
    )


def _list() -> int:
    found = list_runs()
    if not found:
        print(f"no runs under {runs_root()}; train one: qk fit laptop/stage1")
        return 0
    width = max(len(run.name) for run in found)
    head = f"{'run':<{width}}  {'state':<11} {'steps':>11} {'val/loss':>9} {'seconds':>8}"
    print(f"{head} {'images/s':>8} {'seed':>4}  made with")
    for run in found:
        status = run.status
        metrics = run.last_metrics()
        loss, speed = metrics.get("val/loss"), metrics.get("perf/images_per_second")
        steps = f"{status.get('step', 0)}/{status.get('max_steps', '?')}"
        shown = f"{loss:.4f}" if loss is not None else "-"
        seconds = status.get("seconds", 0.0)
        line = f"{run.name:<{width}}  {run.state:<11} {steps:>11} {shown:>9} {seconds:>8.0f}"
        line += f" {speed:>8.1f}" if speed is not None else f" {'-':>8}"
        print(f"{line} {_seed(run):>4}  {_made_with(run)}".rstrip())
    return 0


def _seed(run: RunFolder) -> str:
    """Return the seed; reading the whole configuration of hundreds of runs would take seconds."""
    text = (run.path / "config.yaml").read_text(encoding="utf-8", errors="replace")
    found = re.search(r"^seed: (\d+)$", text, re.MULTILINE)
    return found.group(1) if found else "?"


def _made_with(run: RunFolder) -> str:
    """Say what distinguishes a run from its preset; name and seed have columns of their own."""
    apart = ("seed", "name")
    words = [text for text in run.overrides if text.partition("=")[0] not in apart]
    return "; ".join([*words, *(["other code"] if run.is_done and source_changes(run) else [])])


def _show(text: str) -> int:
    run = find_run(text)
    print(f"{run.path}\n")
    print(json.dumps({**run.status, "state": run.state}, indent=2))
    parameters = run.read_json("parameters.json")
    for family, counts in parameters.items():
        print(f"{family:<14}{counts['total']:>14,} parameters, {counts['trainable']:,} trained")
    for entry in run.read_json("weights.json").get("entries", []):
        origin = entry.get("file") or f"seed {entry.get('seed', '?')}"
        print(f"{entry.get('part', '?')!s:<14}{entry.get('action', '?')!s:<12}{origin}")
    for metric, value in sorted(run.last_metrics().items()):
        print(f"{metric:<40}{value:>12.5g}")
    for line in [*describe_settings(run), *filter(None, [describe_missed(run)])]:
        print(line)
    if changed := source_changes(run):
        print(f"done by other code: {describe_changes(changed, len(changed))}")
    return 0


def _remove(text: str) -> int:
    run = find_run(text)
    check_removable(run.path)
    children = children_of(run)
    if children:
        names = ", ".join(child.name for child in children)
        raise ConfigError(
            Problem("run", run.name, "a run that no other needs", f"remove {names} first")
        )
    try:
        with run.lock(wait=False):
            run.remove()
    except LockHeld as error:
        expected, fix = f"a run that is not in use ({error})", "wait for it, or stop it first"
        raise ConfigError(Problem("run", run.name, expected, fix)) from error
    print(f"removed {run.path}")
    return 0


def _export(text: str, family: str, folder: str) -> int:
    run: RunFolder = find_run(text)  # before torch is imported
    from qk_lightning.assembly.export import export_part

    target = user_path(folder, "folder")
    export_part(run, family, target)
    use = f"; use it: {family}.path={target}" if "path" in run.config[family] else ""
    print(f"{family} of {run.name} in {target.resolve()}{use}")
    return 0
