"""Options of `qk sweep` and `qk claims` that say how runs are run. The standard library alone."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qk_lightning.sweeps.engine import RunOptions


def add_sweep_options(parser: argparse.ArgumentParser) -> None:
    """Add them to a verb.

    Args:
        parser: the verb's parser.
    """
    parser.add_argument(
        "--retry",
        choices=["failed"],
        help="try again what failed before; without it failed runs are left as they are",
    )
    parser.add_argument(
        "--fail-fast",
        type=int,
        default=2,
        metavar="N",
        help="start no further run once N have failed alike (default 2; 0: start all)",
    )
    parser.add_argument(
        "--executor",
        choices=["local", "ray", "submitit"],
        help="what trains the runs: this machine, a Ray cluster, or a queue such as SLURM's;"
        " default: as the file says, else local",
    )
    parser.add_argument(
        "--executor-option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="address=... of Ray; partition=..., timeout_min=..., mem_gb=... of submitit; once for"
        " each",
    )
    parser.add_argument(
        "--slots",
        type=int,
        metavar="N",
        help="most runs at the same time; default: as the file says, else 2, or as many as its GPUs"
        " or cores hold, or as the engine takes",
    )
    parser.add_argument(
        "--gpus",
        type=int,
        metavar="K",
        help="GPUs of its own for each run; 0: none is given out, each run sees all",
    )


def run_options(options: argparse.Namespace) -> RunOptions:
    """Read them.

    Args:
        options: the parsed command line.

    Returns:
        How a sweep is run.

    Raises:
        ConfigError: a number is too small, or an option has no executor.
    """
    from qk_lightning.config.errors import ConfigError, Problem
    from qk_lightning.sweeps.engine import RunOptions
    from qk_lightning.sweeps.room import executor_of

    problems = []
    for name, least in {"fail_fast": 0, "slots": 1, "gpus": 0}.items():
        value = getattr(options, name)
        if value is not None and value < least:
            flag = f"--{name.replace('_', '-')}"
            problems.append(Problem(flag, value, f"{least} or more", f"write {flag} {least}"))
    settings = options.executor_option
    problems += [Problem("--executor-option", text, "key=value", "for example partition=gpu")
                 for text in settings if "=" not in text.strip("=")]  # fmt: skip
    if settings and not options.executor:
        fix = "write --executor submitit, or put them under `executor:` of the sweep file"
        problems.append(Problem("--executor-option", settings, "--executor beside it", fix))
    if problems:
        raise ConfigError(problems)
    executor = executor_of(options.executor, settings) if options.executor else None
    return RunOptions(
        options.retry == "failed", options.fail_fast, executor, options.slots, options.gpus
    )
