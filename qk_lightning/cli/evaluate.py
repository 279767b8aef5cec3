"""`qk evaluate`: what is asked, suites of a run, the readers' own table.

Not here: prompt sets, and pictures that somebody else drew from them (evaluate_folder.py).
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from qk_lightning.cli.evaluate_folder import (
    check_suite,
    export_prompts,
    request_of,
    score_pictures,
)
from qk_lightning.config.arguments import SEED_BITS, check_counts, check_seed
from qk_lightning.config.errors import ConfigError, Problem, did_you_mean
from qk_lightning.config.paths import check_output, user_path

PROMPTS, READERS = "prompts", "readers"
USAGE = (
    "qk evaluate RUN SUITE | qk evaluate --images FOLDER SUITE | "
    "qk evaluate prompts SUITE --output FOLDER | qk evaluate readers"
)


def evaluate(options: argparse.Namespace) -> int:
    """Score a run or a folder of pictures, export a prompt set, or measure the readers.

    Args:
        options: the parsed command line.

    Returns:
        0.

    Raises:
        ConfigError: words or numbers that cannot be used.
    """
    words = [word for word in options.words if "=" not in word]
    overrides = [word for word in options.words if "=" in word]
    _check_numbers(options)
    if options.output:
        options.output = str(user_path(options.output, "--output"))
    if words == [READERS]:
        _refuse(
            options,
            "readers",
            images=None,
            num_samples=1,
            seed=0,
            checkpoint=None,
            overrides=overrides,
        )
        return _readers(options)
    if len(words) == 2 and words[0] == PROMPTS:
        _refuse(options, "prompts", images=None, num_samples=1, checkpoint=None)
        return export_prompts(words[1], overrides, options)
    if options.images is not None and len(words) == 2:
        _refuse(options, "--images with a run", checkpoint=None, overrides=overrides)
        return score_pictures(words, overrides, options)
    if options.images is not None and len(words) == 1:
        _refuse(options, "--images", checkpoint=None)
        return score_pictures(words, overrides, options)
    if len(words) == 2:
        _check_misspelt(words[0])
        _refuse(options, "a run", output=None, overrides=overrides)
        return _run(words[0], words[1], options)
    given = " ".join(options.words) or None
    raise ConfigError(Problem("evaluate", given, "a run and a suite", USAGE))


def _refuse(
    options: argparse.Namespace, form: str, overrides: Sequence[str] = (), **defaults: Any
) -> None:
    """Refuse what has no effect in one of the command's forms."""
    problems = [
        Problem(
            f"--{name.replace('_', '-')}",
            getattr(options, name),
            f"nothing: it has no effect on {form}",
            "leave it out",
        )
        for name, default in defaults.items()
        if getattr(options, name) != default
    ]
    problems += [
        Problem("override", text, f"nothing: worlds are not chosen with {form}", "leave it out")
        for text in overrides
    ]
    if problems:
        raise ConfigError(problems)


def _check_misspelt(word: str) -> None:
    """See that a run's name is not `prompts` misspelt, before its options are refused.

    Raises:
        ConfigError: it is nearly that word, and the beginning of no run's name.
    """
    from qk_lightning.config.find_runs import list_runs

    near = difflib.get_close_matches(word, [PROMPTS], cutoff=0.75)
    if near and not any(run.name.startswith(word) for run in list_runs()):
        fix = did_you_mean(word, [PROMPTS])
        raise ConfigError(Problem("evaluate", word, f"a run, or {PROMPTS}", fix))


def _check_numbers(options: argparse.Namespace) -> None:
    check_counts(["--limit"], **{"--limit": options.limit, "--num-samples": options.num_samples})
    check_seed("--seed", options.seed, SEED_BITS)


def _run(run_name: str, suite_name: str, options: argparse.Namespace) -> int:
    from qk_lightning.cli.draw import run_of

    run = run_of(run_name)
    check_suite(suite_name)
    print(f"{run.name}: loading", file=sys.stderr, flush=True)  # torch takes a while
    from qk_lightning.assembly.build import open_world
    from qk_lightning.evaluation.levels import EVALUATIONS
    from qk_lightning.evaluation.run_suite import evaluate_run, folder_name, suites_for
    from qk_lightning.evaluation.suite import worlds_of
    from qk_lightning.evaluation.table import print_summary
    from qk_lightning.pipeline import QueryKontextPipeline
    from qk_lightning.tracking.mlflow_evaluation import log_evaluation
    from qk_lightning.training.at_checkpoint import run_at, step_at

    world = open_world(run.config.data.world)
    worlds = worlds_of(world)
    suites = suites_for(suite_name, worlds)
    with run_at(run, options.checkpoint) as chosen:
        system = QueryKontextPipeline.from_run(chosen, options.device).system
    world.prepare()
    request = request_of(options)
    if options.checkpoint is not None:
        request = replace(request, checkpoint=step_at(run, options.checkpoint))
    for suite in suites:
        summary = evaluate_run(run, system, worlds, suite, request, _progress)
        print_summary(summary)
        if not request.checkpoint:  # MLflow shows the finished run
            log_evaluation(run, summary, run.path / EVALUATIONS / folder_name(suite, request))
        print()
    print(f"pictures, verdicts and summaries: {run.path / EVALUATIONS}")
    return 0


def _readers(options: argparse.Namespace) -> int:
    print("measuring the readers on pictures of known content", file=sys.stderr, flush=True)
    from qk_lightning.evaluation.reader_table import reader_table, write_between_markers

    if options.output:
        check_output("--output", Path(options.output))
    text = reader_table(options.limit or 90, _codec())
    print(text)
    if options.output:
        write_between_markers(Path(options.output), text)
        print(f"\nwritten to {options.output}")
    return 0


def _codec() -> Any:
    """Load the codec that comes with the package; None where it does not."""
    from qk_lightning.evaluation.controls import builtin_codec

    codec = builtin_codec()
    if codec is None:
        print("without a codec there is no ceiling", file=sys.stderr)
    return codec


def _progress(done: int, total: int) -> None:
    end = "\n" if done == total else ""
    print(f"\rdrawing {done} of {total}", end=end, file=sys.stderr, flush=True)
