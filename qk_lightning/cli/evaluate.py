"""`qk evaluate`: suites of a run or of anybody's pictures, prompt sets, the readers' own table."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from qk_lightning.config.arguments import (
    SEED_BITS,
    check_counts,
    check_overrides,
    check_seed,
)
from qk_lightning.config.errors import ConfigError, Problem, did_you_mean
from qk_lightning.config.layers import override_layer
from qk_lightning.config.paths import check_folder, check_output, list_suites, runs_root, user_path
from qk_lightning.config.validate import checked_part

if TYPE_CHECKING:
    from qk_lightning.data.sample import World
    from qk_lightning.evaluation.run_suite import Request

PROMPTS, READERS = "prompts", "readers"
USAGE = (
    "qk evaluate RUN SUITE | qk evaluate --images FOLDER SUITE | "
    "qk evaluate prompts SUITE --output FOLDER | qk evaluate readers"
)
NAMES = "name the folder that holds <id>.png; `qk evaluate prompts` lists the ids"


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
        return _export(words[1], overrides, options)
    if options.images is not None and len(words) == 2:
        _refuse(options, "--images with a run", checkpoint=None, overrides=overrides)
        return _pictures(words, overrides, options)
    if options.images is not None and len(words) == 1:
        _refuse(options, "--images", checkpoint=None)
        return _pictures(words, overrides, options)
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


def _request(options: argparse.Namespace) -> Request:
    from qk_lightning.evaluation.run_suite import Request

    return Request(options.limit, options.num_samples, options.seed)


def _check_suite(name: str) -> None:
    """See that there is such a suite, before the libraries are imported.

    Raises:
        ConfigError: there is none.
    """
    known = ["all", *list_suites()]
    if name not in known:
        raise ConfigError(Problem("suite", name, "a suite, or all", did_you_mean(name, known)))


def _run(run_name: str, suite_name: str, options: argparse.Namespace) -> int:
    from qk_lightning.cli.draw import run_of

    run = run_of(run_name)
    _check_suite(suite_name)
    print(f"{run.name}: loading", file=sys.stderr, flush=True)  # torch takes a while
    from qk_lightning.assembly.build import open_world
    from qk_lightning.evaluation.levels import EVALUATIONS
    from qk_lightning.evaluation.run_suite import evaluate_run, folder_name, suites_for
    from qk_lightning.evaluation.suite import worlds_of
    from qk_lightning.evaluation.table import print_summary
    from qk_lightning.pipeline import QueryKontextPipeline
    from qk_lightning.pipeline.at_checkpoint import run_at, step_at
    from qk_lightning.tracking.mlflow_evaluation import log_evaluation

    world = open_world(run.config.data.world)
    worlds = worlds_of(world)
    suites = suites_for(suite_name, worlds)
    with run_at(run, options.checkpoint) as chosen:
        system = QueryKontextPipeline.from_run(chosen, options.device).system
    world.prepare()
    request = _request(options)
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


def _pictures(words: Sequence[str], overrides: Sequence[str], options: argparse.Namespace) -> int:
    """Score anybody's folder; a run's name before the suite says which worlds are meant."""
    _check_suite(words[-1])
    folder = user_path(options.images, "--images")
    _check_pictures(folder)
    check_folder("--output", Path(options.output or folder))
    print(f"{options.images}: loading", file=sys.stderr, flush=True)
    from qk_lightning.assembly.build import open_world
    from qk_lightning.cli.draw import run_of
    from qk_lightning.evaluation.prompt_set import check_prompt_set, make_prompt_set
    from qk_lightning.evaluation.run_suite import Origin, score_prompts, suites_for
    from qk_lightning.evaluation.suite import worlds_of
    from qk_lightning.evaluation.table import print_summary
    from qk_lightning.pipeline import QueryKontextPipeline

    codec = None  # what drew a stranger's pictures is not bound by the kit's codec
    if len(words) == 2:
        run = run_of(words[0])
        worlds = worlds_of(open_world(run.config.data.world))
        codec = QueryKontextPipeline.from_run(run, options.device).system.autoencoder
    else:
        worlds = default_worlds(overrides)
    request = _request(options)
    suites = suites_for(words[-1], worlds)
    for suite in suites:  # before the first is scored
        check_folder("--output", _verdicts(folder, options.output, suite.name))
    for suite in suites:
        for world in worlds.values():
            world.prepare()
        prompts = make_prompt_set(suite, worlds, request.count, request.seed)
        check_prompt_set(folder, prompts)
        output = _verdicts(folder, options.output, suite.name)
        origin = Origin(str(folder))
        summary = score_prompts(folder, output, prompts, worlds, request, origin, codec)
        warn_of_missing(summary, options.limit)
        print_summary(summary)
        print(f"verdicts and summary: {output}\n")
    return 0


def _verdicts(folder: Path, output: str | None, suite: str) -> Path:
    return Path(output or folder / "evaluation") / suite


def warn_of_missing(summary: Mapping[str, Any], limit: int | None) -> None:
    """Say it before the scores where they tell of missing pictures more than of drawn ones.

    Args:
        summary: what summary.json holds.
        limit: what `--limit` says.
    """
    missing, planned = summary["num_missing"], summary["num_planned"]
    if 2 * missing > planned:
        fix = f"exported with {'another ' if limit else ''}--limit? give the same --limit here"
        print(f"warning: {missing} of {planned} pictures are missing and count as failed; {fix}")


def _check_pictures(folder: Path) -> None:
    """See that there are pictures at all: a wrong folder is no score of 0."""
    if not folder.is_dir():
        raise ConfigError(Problem("--images", str(folder), "a folder", NAMES))
    if next(folder.rglob("*.png"), None) is None:
        raise ConfigError(Problem("--images", str(folder), "a folder with PNG files in it", NAMES))


def _export(name: str, overrides: Sequence[str], options: argparse.Namespace) -> int:
    _check_suite(name)
    print(f"{name}: opening the worlds", file=sys.stderr, flush=True)
    from qk_lightning.evaluation.prompt_set import export, make_prompt_set
    from qk_lightning.evaluation.run_suite import suites_for

    check_folder("--output", Path(options.output or runs_root()))
    worlds = default_worlds(overrides)
    suites = suites_for(name, worlds)
    for kind in dict.fromkeys(kind for suite in suites for kind, _ in suite.offers(worlds)):
        worlds[kind].prepare()
    for suite in suites:
        prompts = make_prompt_set(suite, worlds, options.limit, options.seed)
        folder = Path(options.output or runs_root() / "prompts") / suite.name
        export(prompts, worlds, folder)
        print(f"{suite.name}: {len(prompts.items)} items, sha256 {prompts.sha256[:16]}  {folder}")
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


def default_worlds(overrides: Sequence[str] = ()) -> dict[str, World]:
    """Open the worlds of the suites at their own defaults.

    Args:
        overrides: `<world>.<option>=value`, such as `scenes.size=64`.

    Returns:
        Worlds by kind.

    Raises:
        ConfigError: an option is unknown or wrong.
    """
    from qk_lightning.assembly.build import open_world

    given: dict[str, Any] = {}
    for text in check_overrides(overrides):
        values = override_layer(text).values
        nested = isinstance(next(iter(values.values())), Mapping)
        given |= OmegaConf.to_container(OmegaConf.merge(given, values)) if nested else values  # type: ignore[operator]
    kinds = ("avatars", "scenes")
    fix = f"write <world>.<option>=value with a world of: {', '.join(kinds)}"
    if wrong := [key for key, value in given.items() if key not in kinds or not value]:
        raise ConfigError(Problem("override", wrong[0], "a world's option", fix))
    if wrong := [key for key, value in given.items() if not isinstance(value, dict)]:
        raise ConfigError(Problem("override", f"{wrong[0]}={given[wrong[0]]}", "an option", fix))
    nodes: Mapping[str, Any] = {kind: {"name": kind, **given.get(kind, {})} for kind in kinds}
    return {
        kind: open_world(OmegaConf.create(checked_part("world", node, kind)))
        for kind, node in nodes.items()
    }


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
