"""`qk bench`: which parts fit together and how large they are; how fast a step is, and why."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qk_lightning.config.arguments import check_once
from qk_lightning.config.errors import ConfigError, Problem, did_you_mean
from qk_lightning.config.paths import check_output
from qk_lightning.config.schema import names_of

if TYPE_CHECKING:
    from qk_lightning.bench.side_by_side import Entrant
    from qk_lightning.bench.triples import Outcome

FAULT = 1
# What each kind of bench has a use for.
OWN = {"parts": {"only"}, "prefix": {"words"}, "train": {"words", "variants"}, "sweep": set()}
TIMED = {"repetitions": 5, "steps": 2}


def bench(options: argparse.Namespace) -> int:
    """Try all triples of parts, or time training steps; print tables or write them to a page.

    Args:
        options: the parsed command line.

    Returns:
        0; 1 where a triple neither trains as it should nor is refused, or a variant failed.

    Raises:
        ConfigError: a name, an override or a number is wrong, or the file cannot be written.
    """
    _check_uses(options)
    page = Path(options.output) if options.output else None
    if page is not None:
        check_output("--output", page)
    if options.what == "parts":
        return _parts(options.only, page)
    if options.what == "sweep":
        from qk_lightning.bench.sweep_overhead import overhead_table, sweep_overhead

        _show({"sweep overhead": overhead_table(sweep_overhead())}, page)
        return 0
    for name, default in TIMED.items():
        if getattr(options, name) is None:
            setattr(options, name, default)
    return _train(options, page) if options.what == "train" else _prefix(options, page)


def _check_uses(options: argparse.Namespace) -> None:
    """See that nothing was given that would have no effect."""
    timed = {*TIMED, "text_lengths"} if options.what in ("train", "prefix") else set()
    problems = []
    for name in ("words", "only", "variants", "repetitions", "steps", "text_lengths"):
        value = getattr(options, name)
        shown = "words" if name == "words" else f"--{name.replace('_', '-')}"
        if value and name not in OWN[options.what] | timed:
            expected = f"nothing: `qk bench {options.what}` has no use for it"
            problems.append(Problem(shown, value, expected, "leave it out"))
    for name in (*TIMED, "text_lengths"):
        given = getattr(options, name)
        for value in given if isinstance(given, list) else [given]:
            if value is not None and value < 1:
                problems.append(Problem(f"--{name.replace('_', '-')}", value, "1 or more", ""))
    if problems:
        raise ConfigError(problems)


def _parts(only: Sequence[str], page: Path | None) -> int:
    known = [name for family in ("vlm", "connector", "head") for name in names_of(family)]
    problems = [
        Problem("--only", name, "a vlm, connector or head", did_you_mean(name, known))
        for name in only
        if name not in known
    ]
    if problems:
        raise ConfigError(problems)
    from qk_lightning.bench.tables import triples_table

    outcomes = _try(only)
    sections = {"triples": triples_table(outcomes)}
    if not only:
        sections = {"sizes": _sizes(), **sections}
    _show(sections, page)
    return FAULT if any(outcome.fault for outcome in outcomes) else 0


def _train(options: argparse.Namespace, page: Path | None) -> int:
    from qk_lightning.bench.variants import entrants_of

    preset, *overrides = options.words or ["laptop/stage2"]
    check_once(overrides)
    if "=" in preset:
        expected, fix = "a preset before its overrides", "qk bench train laptop/stage2 key=value"
        raise ConfigError(Problem("preset", preset, expected, fix))
    lengths = options.text_lengths or ()
    entrants = entrants_of(preset, overrides, options.variants, options.steps, lengths)
    return _time(f"train {' '.join(options.words) or preset}", entrants, options, page)


def _prefix(options: argparse.Namespace, page: Path | None) -> int:
    from qk_lightning.bench.prefix import TEXT_LENGTHS, make_vlm, prefix_entrants

    check_once(options.words)
    with tempfile.TemporaryDirectory() as folder:
        vlm, lengths = Path(folder) / "vlm", options.text_lengths or TEXT_LENGTHS
        entrants = prefix_entrants(vlm, options.words, options.steps, lengths)
        make_vlm(vlm)
        return _time("prefix", entrants, options, page)


def _time(
    section: str, entrants: Sequence[Entrant], options: argparse.Namespace, page: Path | None
) -> int:
    """Time entrants and show what they took."""
    from qk_lightning.bench.side_by_side import side_by_side
    from qk_lightning.bench.timings import as_json, keep_json, timings_table

    given = os.environ.get("OMP_NUM_THREADS", "")
    threads = int(given) if given.isdecimal() and int(given) else os.cpu_count() or 1
    timings = side_by_side(
        entrants, options.repetitions, threads, lambda text: print(text, file=sys.stderr)
    )
    about = {"threads": threads, "steps": options.steps, "repetitions": options.repetitions}
    _show({section: timings_table(timings)}, page)
    if page is not None:
        keep_json(page.with_suffix(".json"), section, as_json(timings, about))
        print(f"written: {page.with_suffix('.json')}")
    return FAULT if any(timing.failed for timing in timings) else 0


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
