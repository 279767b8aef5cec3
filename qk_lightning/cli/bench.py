"""`qk bench parts`: which parts fit together, tried on tiny checkpoints, and how large they are."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qk_lightning.config.errors import ConfigError, Problem, did_you_mean
from qk_lightning.config.paths import check_output
from qk_lightning.config.schema import names_of

if TYPE_CHECKING:
    from qk_lightning.bench.triples import Outcome

FAULT = 1


def bench(options: argparse.Namespace) -> int:
    """Try every VLM with every connector and head, and print or write the tables.

    With --only, the table of sizes is left out.

    Args:
        options: the parsed command line.

    Returns:
        0; 1 where a triple neither trains as it should nor is refused.

    Raises:
        ConfigError: --only names no part, or the file cannot be written.
    """
    known = [name for family in ("vlm", "connector", "head") for name in names_of(family)]
    problems = [
        Problem("--only", name, "a vlm, connector or head", did_you_mean(name, known))
        for name in options.only
        if name not in known
    ]
    if problems:
        raise ConfigError(problems)
    page = Path(options.output) if options.output else None
    if page is not None:
        check_output("--output", page)
    from qk_lightning.bench.tables import triples_table

    outcomes = _try(options.only)
    sections = {"triples": triples_table(outcomes)}
    if not options.only:
        sections = {"sizes": _sizes(), **sections}
    _show(sections, page)
    return FAULT if any(outcome.fault for outcome in outcomes) else 0


def _try(only: Sequence[str]) -> list[Outcome]:
    from qk_lightning.bench.triples import Bench, triples

    wanted, outcomes = triples(only), []
    with tempfile.TemporaryDirectory() as folder:
        for outcome in Bench(Path(folder)).try_all(wanted):
            outcomes.append(outcome)
            said = outcome.fault or outcome.refused or "trains"
            names = f"{outcome.vlm} + {outcome.connector} + {outcome.head}"
            print(f"{len(outcomes)}/{len(wanted)} {names}: {said}", file=sys.stderr, flush=True)
    return outcomes


def _sizes() -> str:
    from qk_lightning.bench.sizes import published_sizes
    from qk_lightning.bench.tables import sizes_table

    return sizes_table(list(published_sizes()))


def _show(sections: Mapping[str, str], page: Path | None) -> None:
    from qk_lightning.bench.tables import write_section

    for name, text in sections.items():
        if page is None:
            print(f"{text}\n")
        else:
            write_section(page, name, text)
    if page is not None:
        print(f"written: {page}")
