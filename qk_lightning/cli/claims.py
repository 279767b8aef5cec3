"""`qk claims`: claims of papers with what the kit's runs say of them."""

from __future__ import annotations

import argparse
from dataclasses import fields, replace
from pathlib import Path

from qk_lightning.claims.plan import describe_plan, plan_claims
from qk_lightning.claims.reader import load_claims
from qk_lightning.claims.seeds import read_seeds
from qk_lightning.cli.sweep_options import run_options
from qk_lightning.config.errors import ConfigError, Problem
from qk_lightning.config.paths import check_folder, check_output, runs_root, user_path
from qk_lightning.sweeps.engine import AS_THE_FILE_SAYS, RunOptions


def claims(options: argparse.Namespace) -> int:
    """List claims, run what is missing, judge them, write their page.

    Args:
        options: the parsed command line.

    Returns:
        0, 1 after a failure, 130 after Ctrl-C.
    """
    found, how = load_claims(options.names), run_options(options)
    if options.seeds is not None:
        seeds = read_seeds(options.seeds)
        found = [claim.with_seeds(seeds) for claim in found]
    if not (options.run or options.plan) and (problems := _for_runs_alone(options, how)):
        raise ConfigError(problems)
    if options.plan:
        found = [replace(claim, sweep=how.applied_to(claim.sweep)) for claim in found]
        print(describe_plan(plan_claims(found)))
        return 0
    page = None
    if options.report:
        page = user_path(options.report, "--report")
        check_output("--report", page)
    check_folder("runs", runs_root())
    from qk_lightning.claims.page import write_page
    from qk_lightning.claims.results import claims_folder, to_text
    from qk_lightning.claims.run import judge_claims, run_claims

    status = 0
    if options.run:
        results, status = run_claims(found, options.redo, options=how)
    else:
        results = judge_claims(found)
        print(to_text(results))
    print(f"\ntables  {claims_folder(found) / 'claims.md'}")
    if page is not None:
        write_page(Path(page), results)
        print(f"page    {page}")
    return status


def _for_runs_alone(options: argparse.Namespace, how: RunOptions) -> list[Problem]:
    """List the options that say how runs are trained, where none is to be."""
    given = {f"--{item.name.replace('_', '-')}": getattr(options, item.name)
             for item in fields(RunOptions)
             if getattr(how, item.name) != getattr(AS_THE_FILE_SAYS, item.name)}  # fmt: skip
    given |= {"--redo": True} if options.redo else {}
    return [
        Problem(
            flag, None if value is True else value, "--run beside it", "add --run, or leave it out"
        )
        for flag, value in given.items()
    ]
