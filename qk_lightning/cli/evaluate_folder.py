"""`qk evaluate` without a run of ours: prompt sets out, folders of pictures in.

Not here: the words of the command line (evaluate.py).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from qk_lightning.config.arguments import check_overrides
from qk_lightning.config.errors import ConfigError, Problem, did_you_mean
from qk_lightning.config.layers import override_layer
from qk_lightning.config.paths import check_folder, list_suites, runs_root, user_path
from qk_lightning.config.validate import checked_part

if TYPE_CHECKING:
    from qk_lightning.data.sample import World
    from qk_lightning.evaluation.run_suite import Request

NAMES = "name the folder that holds <id>.png; `qk evaluate prompts` lists the ids"


def score_pictures(
    words: Sequence[str], overrides: Sequence[str], options: argparse.Namespace
) -> int:
    """Score anybody's folder; a run's name before the suite says which worlds are meant.

    Args:
        words: a suite, or a run and a suite.
        overrides: as in `default_worlds`.
        options: the parsed command line.

    Returns:
        0.

    Raises:
        ConfigError: there is no such suite, folder or run.
    """
    check_suite(words[-1])
    folder = user_path(options.images, "--images")
    _check_pictures(folder)
    check_folder("--output", Path(options.output or folder))
    print(f"{options.images}: loading", file=sys.stderr, flush=True)
    from qk_lightning.evaluation.prompt_set import check_prompt_set, make_prompt_set
    from qk_lightning.evaluation.run_suite import Origin, score_prompts, suites_for
    from qk_lightning.evaluation.table import print_summary

    worlds, codec = _worlds_and_codec(words, overrides, options.device)
    request = request_of(options)
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


def _worlds_and_codec(
    words: Sequence[str], overrides: Sequence[str], device: str
) -> tuple[dict[str, World], Any]:
    """Open the worlds of the run that is named, with its codec, or those of the suites."""
    if len(words) == 1:  # what drew a stranger's pictures is not bound by the kit's codec
        return default_worlds(overrides), None
    from qk_lightning.assembly.build import open_world
    from qk_lightning.cli.draw import run_of
    from qk_lightning.evaluation.suite import worlds_of
    from qk_lightning.pipeline import QueryKontextPipeline

    run = run_of(words[0])
    worlds = worlds_of(open_world(run.config.data.world))
    return worlds, QueryKontextPipeline.from_run(run, device).system.autoencoder


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


def export_prompts(name: str, overrides: Sequence[str], options: argparse.Namespace) -> int:
    """Write the prompt set of a suite, and its input pictures, for anybody to draw.

    Args:
        name: a suite, or all.
        overrides: as in `default_worlds`.
        options: the parsed command line.

    Returns:
        0.

    Raises:
        ConfigError: there is no such suite, or it cannot be written there.
    """
    check_suite(name)
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


def request_of(options: argparse.Namespace) -> Request:
    """Read how much is scored.

    Args:
        options: the parsed command line.

    Returns:
        What `evaluate_run` and `score_prompts` take.
    """
    from qk_lightning.evaluation.run_suite import Request

    return Request(options.limit, options.num_samples, options.seed)


def check_suite(name: str) -> None:
    """See that there is such a suite, before the libraries are imported.

    Args:
        name: what was asked for.

    Raises:
        ConfigError: there is none.
    """
    known = ["all", *list_suites()]
    if name not in known:
        raise ConfigError(Problem("suite", name, "a suite, or all", did_you_mean(name, known)))
