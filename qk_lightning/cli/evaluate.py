"""`qk evaluate`: suites of a run or of anybody's pictures, prompt sets, the readers' own table."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from qk_lightning.config.errors import ConfigError, Problem, did_you_mean
from qk_lightning.config.layers import override_layer
from qk_lightning.config.paths import package_root, runs_root
from qk_lightning.config.validate import SUITES, checked_part

if TYPE_CHECKING:
    from qk_lightning.data.sample import World
    from qk_lightning.evaluation.run_suite import Request

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
    if words == [READERS]:
        return _readers(options)
    if len(words) == 2 and words[0] == PROMPTS and options.images is None:
        return _export(words[1], overrides, options)
    if options.images is not None and len(words) in (1, 2):
        return _pictures(words, overrides, options)
    if len(words) == 2 and not overrides:
        return _run(words[0], words[1], options)
    given = " ".join(options.words) or None
    raise ConfigError(Problem("evaluate", given, "a run and a suite", USAGE))


def _check_numbers(options: argparse.Namespace) -> None:
    problems = [
        Problem(f"--{name.replace('_', '-')}", value, "1 or more", "raise it")
        for name in ("limit", "num_samples")
        if (value := getattr(options, name)) is not None and value < 1
    ]
    if not 0 <= options.seed < 2**62:
        problems.append(Problem("--seed", options.seed, "0 to 2^62 - 1", "choose another"))
    if problems:
        raise ConfigError(problems)


def _request(options: argparse.Namespace) -> Request:
    from qk_lightning.evaluation.run_suite import Request

    return Request(options.limit, options.num_samples, options.seed)


def _check_suite(name: str) -> None:
    """See that there is such a suite, before the libraries are imported.

    Raises:
        ConfigError: there is none.
    """
    folder = package_root() / SUITES
    known = ["all", *sorted(file.stem for file in folder.glob("[!_]*.py"))]
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
    from qk_lightning.tracking.mlflow_evaluation import log_evaluation

    world = open_world(run.config.data.world)
    worlds = worlds_of(world)
    suites = suites_for(suite_name, worlds)
    system = QueryKontextPipeline.from_run(run, options.device).system
    world.prepare()
    request = _request(options)
    for suite in suites:
        summary = evaluate_run(run, system, worlds, suite, request, _progress)
        print_summary(summary)
        log_evaluation(run, summary, run.path / EVALUATIONS / folder_name(suite, request))
        print()
    print(f"pictures, verdicts and summaries: {run.path / EVALUATIONS}")
    return 0


def _pictures(words: Sequence[str], overrides: Sequence[str], options: argparse.Namespace) -> int:
    """Score anybody's folder; a run's name before the suite says which worlds are meant."""
    _check_suite(words[-1])
    print(f"{options.images}: loading", file=sys.stderr, flush=True)
    from qk_lightning.assembly.build import open_world
    from qk_lightning.cli.draw import run_of
    from qk_lightning.evaluation.prompt_set import make_prompt_set
    from qk_lightning.evaluation.run_suite import Origin, score_prompts, suites_for
    from qk_lightning.evaluation.suite import worlds_of
    from qk_lightning.evaluation.table import print_summary

    if len(words) == 2:
        worlds = worlds_of(open_world(run_of(words[0]).config.data.world))
    else:
        worlds = default_worlds(overrides)
    folder, request = Path(options.images).expanduser(), _request(options)
    for suite in suites_for(words[-1], worlds):
        for world in worlds.values():
            world.prepare()
        prompts = make_prompt_set(suite, worlds, request.count, request.seed)
        output = Path(options.output or folder / "evaluation") / suite.name
        origin, codec = Origin(str(folder)), _codec()
        print_summary(score_prompts(folder, output, prompts, worlds, request, origin, codec))
        print(f"verdicts and summary: {output}\n")
    return 0


def _export(name: str, overrides: Sequence[str], options: argparse.Namespace) -> int:
    _check_suite(name)
    print(f"{name}: opening the worlds", file=sys.stderr, flush=True)
    from qk_lightning.evaluation.prompt_set import export, make_prompt_set
    from qk_lightning.evaluation.run_suite import suites_for

    worlds = default_worlds(overrides)
    suites = suites_for(name, worlds)
    for world in worlds.values():
        world.prepare()
    for suite in suites:
        prompts = make_prompt_set(suite, worlds, options.limit, options.seed)
        folder = Path(options.output or runs_root() / "prompts") / suite.name
        export(prompts, worlds, folder)
        print(f"{suite.name}: {len(prompts.items)} items, sha256 {prompts.sha256[:16]}  {folder}")
    return 0


def _readers(options: argparse.Namespace) -> int:
    print("measuring the readers on pictures of known content", file=sys.stderr, flush=True)
    from qk_lightning.evaluation.reader_table import reader_table, write_between_markers

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
    for text in overrides:
        given |= OmegaConf.to_container(OmegaConf.merge(given, override_layer(text).values))  # type: ignore[arg-type]
    kinds = ("avatars", "scenes")
    if unknown := set(given) - set(kinds):
        fix = f"write <world>.<option>=value with a world of: {', '.join(kinds)}"
        raise ConfigError(Problem("override", sorted(unknown)[0], "a world's option", fix))
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
