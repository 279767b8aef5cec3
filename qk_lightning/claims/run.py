"""Running claims: what is missing is trained, sweep by sweep; then all are judged.

Everything that `qk claims` does is a function here or in plan.py, results.py, page.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from qk_lightning.claims.file import Claim
from qk_lightning.claims.plan import ClaimPlan, plan_claims
from qk_lightning.claims.results import ClaimResult, collect, to_text, write_results
from qk_lightning.sweeps.engine import AS_THE_FILE_SAYS, RunOptions
from qk_lightning.sweeps.execute import RUN_STAGE
from qk_lightning.sweeps.pool import PRELOAD
from qk_lightning.sweeps.run import run_sweep

INTERRUPTED = 130


def judge_claims(claims: Sequence[Claim]) -> list[ClaimResult]:
    """Judge claims by what is done of them, and write their tables; trains nothing.

    Args:
        claims: the claims.

    Returns:
        A result for each.

    Raises:
        ConfigError: with everything that is wrong in any of them.
    """
    results = [collect(plan) for plan in plan_claims(claims)]
    write_results(results)
    return results


def run_claims(
    claims: Sequence[Claim],
    redo: bool = False,
    plain: bool | None = None,
    write: Callable[[str], None] = print,
    target: str = RUN_STAGE,
    preload: str = PRELOAD,
    options: RunOptions = AS_THE_FILE_SAYS,
) -> tuple[list[ClaimResult], int]:
    """Train what claims lack, one claim after the other, and judge them all.

    Args:
        claims: the claims, in the order in which they run.
        redo: train again what was done by other code.
        plain: lines instead of the live display; None looks at the terminal.
        write: prints plans and results.
        target: "module:function" that trains a run folder.
        preload: module that the fork server imports before its first member.
        options: what is tried again, when a sweep gives up, and what trains its runs.

    Returns:
        The results; the exit status: 0, 1 after failures, 130 if it was stopped.

    Raises:
        ConfigError: with everything that is wrong in any of them, before anything is trained.
    """
    plan_claims(claims)  # so that the last claim's mistake is not found after hours
    status = 0
    for claim in claims:
        (plan,) = plan_claims([claim])  # anew: the claim before may have trained its runs
        if not _has_work(plan, redo):
            continue
        write(f"\n{claim.name}: {claim.claim}")
        done = run_sweep(plan.plan, (), redo, plain, write, target, preload, options)
        status = max(status, done.exit_status)
        if done.outcome.interrupted:
            status = INTERRUPTED
            break
    results = judge_claims(claims)
    write(f"\n{to_text(results)}")
    return results, status


def _has_work(plan: ClaimPlan, redo: bool) -> bool:
    return bool(plan.to_run) or (redo and bool(plan.plan.changes))
