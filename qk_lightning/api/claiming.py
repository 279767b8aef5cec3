"""Claims of papers from a notebook: judged by what is done, or trained and judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from qk_lightning.api.training import see_edits
from qk_lightning.claims.file import Claim
from qk_lightning.claims.reader import load_claims
from qk_lightning.claims.results import ClaimResult
from qk_lightning.claims.run import INTERRUPTED
from qk_lightning.claims.run import judge_claims as judge
from qk_lightning.claims.run import run_claims as run
from qk_lightning.claims.seeds import check_seeds


def judge_claims(*names: str, seeds: Sequence[int] | None = None) -> list[ClaimResult]:
    """Judge claims by what is done of them; trains nothing.

    Args:
        names: names under `experiments/claims/`, or files; none = all.
        seeds: these in place of the files' own.

    Returns:
        A result for each: `.verdict`, `.outcomes`, `.runs`.

    Raises:
        ConfigError: with everything that is wrong in any of them.
    """
    see_edits()
    return judge(_load(names, seeds))


def run_claims(
    *names: str,
    seeds: Sequence[int] | None = None,
    redo: bool = False,
    plain: bool | None = None,
    write: Callable[[str], None] = print,
) -> list[ClaimResult]:
    """Train what claims lack, and judge them.

    Args:
        names: names under `experiments/claims/`, or files; none = all.
        seeds: these in place of the files' own: a test from scratch.
        redo: train again what was done by other code.
        plain: lines instead of a live display; None looks at the terminal (a notebook gets lines).
        write: prints plans and results.

    Returns:
        A result for each; one of a claim whose runs failed is `not run`.

    Raises:
        ConfigError: with everything that is wrong, before anything is trained.
        KeyboardInterrupt: it was stopped; the same call goes on from here.
    """
    see_edits()
    results, status = run(_load(names, seeds), redo, plain, write)
    if status == INTERRUPTED:
        raise KeyboardInterrupt("stopped; the same call goes on from the last checkpoints")
    return results


def _load(names: Sequence[str], seeds: Sequence[int] | None) -> list[Claim]:
    claims = load_claims(names)
    if seeds is None:
        return claims
    return [claim.with_seeds(check_seeds(seeds)) for claim in claims]
