"""A suite from its name to its scores: prompt set, pictures, verdicts, summary.

`qk evaluate` and the end-of-run scores both go through here. What stands in a folder:
    runs/<run>/evaluations/<suite>/
        prompts.jsonl  prompt_set.json  manifest.jsonl  images/  results.jsonl  summary.json
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from qk_lightning.config.atomic import write_json
from qk_lightning.config.contradictions import WITHOUT_IMAGES
from qk_lightning.config.errors import ConfigError, Problem
from qk_lightning.config.paths import list_suites
from qk_lightning.config.run_folder import RunFolder
from qk_lightning.data.sample import World
from qk_lightning.evaluation.aggregate import breakdown, summarise_rows
from qk_lightning.evaluation.controls import control_levels, scorers, shuffled
from qk_lightning.evaluation.draw import Progress, SystemDrawer, draw_folder
from qk_lightning.evaluation.levels import EVALUATIONS, SUMMARY
from qk_lightning.evaluation.prompt_set import PromptSet, make_prompt_set
from qk_lightning.evaluation.score import (
    find_pictures,
    load_pictures,
    score_folder,
    score_pictures,
    write_results,
)
from qk_lightning.evaluation.suite import ALL, Count, Suite, open_suite
from qk_lightning.parts.base import Part
from qk_lightning.systems.query_kontext import QueryKontext

OWN_ITEMS = 256


@dataclass(frozen=True)
class Request:
    """How much of a suite is scored.

    Args:
        count: the most items of one world and task, or that by task; None = all.
        num_samples: pictures of each item.
        seed: of the first picture's noise.
        checkpoint: names the one that draws, "" for the finished run.
    """

    count: Count = None
    num_samples: int = 1
    seed: int = 0
    checkpoint: str = ""


@dataclass(frozen=True)
class Origin:
    """Who drew.

    Args:
        run: name of the run, or of the folder of pictures.
        identity: the run's identity; "" for pictures from outside.
        settings: of the sampler, in the manifest's names.
    """

    run: str
    identity: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)


def suites_for(
    name: str, worlds: Mapping[str, World], tasks: Sequence[str] | None = None
) -> list[Suite]:
    """Open the suites that a name stands for.

    Args:
        name: a suite, or `all` for every one that the worlds fit.
        worlds: the worlds by kind.
        tasks: tasks that count; None = all.

    Raises:
        ConfigError: there is no such suite, or no world for it.
    """
    if name == ALL:
        if found := fitting_suites(worlds, tasks):
            return found
        fix = "evaluate a run of a preset such as avatars/stage3 or scenes/stage3"
        expected = f"a suite of the worlds at hand ({', '.join(worlds)}); there is none"
        raise ConfigError(Problem("suite", name, expected, fix))
    suite = open_suite(name)
    if not suite.fits(worlds, tasks):
        expected = f"a suite of the worlds at hand ({', '.join(worlds)})"
        fitting = [one.name for one in fitting_suites(worlds, tasks)]
        fix = f"choose among: {', '.join(fitting) or 'none'}; {name} needs {', '.join(suite.parts)}"
        raise ConfigError(Problem("suite", name, expected, fix))
    return [suite]


def fitting_suites(worlds: Mapping[str, World], tasks: Sequence[str] | None = None) -> list[Suite]:
    """Open every suite that draws something of some worlds.

    Args:
        worlds: the worlds by kind.
        tasks: tasks that count; None = all.
    """
    return [suite for suite in map(open_suite, list_suites()) if suite.fits(worlds, tasks)]


def evaluate_run(
    run: RunFolder,
    system: QueryKontext,
    worlds: Mapping[str, World],
    suite: Suite,
    request: Request,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Draw what is missing of a suite with a run's system, and score it.

    Args:
        run: the run; its folder gets `evaluations/<suite>/`.
        system: the run's, loaded.
        worlds: the worlds by kind, prepared.
        suite: the suite.
        request: how much of it.
        progress: called with (done, total) pictures.

    Returns:
        What summary.json holds.

    Raises:
        ConfigError: the suite shows pictures only, and the run's VLM reads text alone.
    """
    tasks = None if system.vlm.reads_images else WITHOUT_IMAGES
    if not suite.fits(worlds, tasks):
        expected = f"a suite with a task that shows no picture: the vlm of {run.name} reads text"
        raise ConfigError(Problem("suite", suite.name, expected, "evaluate another suite"))
    prompts = make_prompt_set(suite, worlds, request.count, request.seed, tasks)
    folder = run.path / EVALUATIONS / folder_name(suite, request)
    prompts.write(folder)
    drawer = SystemDrawer(system, worlds)
    name = f"{run.name} {request.checkpoint}".strip()
    origin = Origin(name, run.identity, drawer.settings)
    settings = {"run": name, "identity": run.identity, **drawer.settings}
    batch_size = system.config.validation.batch_size
    items, samples = prompts.items, request.num_samples
    draw_folder(folder, items, samples, drawer, settings, batch_size, prompts.worlds, progress)
    return score_prompts(folder, folder, prompts, worlds, request, origin, system.autoencoder)


def folder_name(suite: Suite, request: Request) -> str:
    """Return the folder of a suite's pictures: other noise, or another number, has another folder.

    Args:
        suite: the suite.
        request: how much of it.
    """
    words = [suite.name]
    words += [] if request.count is None else [f"limit{request.count}"]
    words += [f"samples{request.num_samples}"] if request.num_samples > 1 else []
    words += [f"seed{request.seed}"] if request.seed else []
    words += [request.checkpoint] if request.checkpoint else []
    return "_".join(words)


def score_prompts(
    pictures: Path,
    output: Path,
    prompts: PromptSet,
    worlds: Mapping[str, World],
    request: Request,
    origin: Origin,
    codec: Part | None,
) -> dict[str, Any]:
    """Score a folder of pictures and write results.jsonl and summary.json.

    Args:
        pictures: where the pictures are.
        output: where the results go.
        prompts: what was asked for.
        worlds: the worlds by kind.
        request: how much of the suite.
        origin: who drew.
        codec: the autoencoder, for the ceiling; None leaves it out.

    Returns:
        What summary.json holds.
    """
    found = find_pictures(pictures, prompts.items, request.num_samples)
    rows = score_folder(prompts.suite, worlds, prompts.items, found, request.num_samples)
    first = load_pictures(found, prompts.items, worlds, 0)
    own = own_shuffled(prompts, worlds, first)
    summary = summarise(prompts, worlds, rows, own, request, origin, codec)
    summary["notes"] = found.notes
    prompts.write(output)
    write_results(output, rows)
    write_json(output / SUMMARY, summary)
    return summary


def own_shuffled(
    prompts: PromptSet, worlds: Mapping[str, World], images: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """Score a run's own pictures against each other's prompts: 'follows the prompt' needs more.

    Args:
        prompts: the prompt set.
        worlds: the worlds by kind.
        images: [3, H, W] uint8 by item id.

    Returns:
        Value by metric.
    """
    here = [item for item in prompts.items if item.id in images]
    if len(here) > OWN_ITEMS:  # a level needs no more
        chosen = np.random.default_rng(0).permutation(len(here))[:OWN_ITEMS]
        here = [here[place] for place in sorted(chosen.tolist())]
    if not here:
        return {}
    pairs = shuffled(here)
    swapped = {item.id: images[other.id] for item, other in pairs}
    rows = score_pictures(prompts.suite, worlds, [item for item, _ in pairs], swapped)
    metrics = prompts.suite.metrics(prompts.items)
    found = summarise_rows(rows, metrics, with_interval=False)
    return {name: value.value for name, value in found.items()}


def summarise(
    prompts: PromptSet,
    worlds: Mapping[str, World],
    rows: Sequence[Mapping[str, Any]],
    own: Mapping[str, float],
    request: Request,
    origin: Origin,
    codec: Part | None,
) -> dict[str, Any]:
    """Make the summary of a suite's rows.

    Args:
        prompts: the prompt set.
        worlds: the worlds by kind.
        rows: the results.
        own: the run's own pictures held against each other's prompts.
        request: how much of the suite.
        origin: who drew.
        codec: the autoencoder; None leaves the ceiling out.

    Returns:
        What summary.json holds.
    """
    suite = prompts.suite
    levels = {**control_levels(prompts, worlds, codec)}
    if own:
        levels["own_shuffled"] = dict(own)
    metrics = {}
    rules = {metric.name: metric for metric in suite.metrics(prompts.items)}
    for name, value in summarise_rows(rows, list(rules.values())).items():
        beside = {control: values[name] for control, values in levels.items() if name in values}
        entry = {**value.to_dict(), "controls": beside, "rule": rules[name].to_dict()}
        metrics[f"eval/{suite.name}/{name}"] = entry
    scored = sum(row["scored"] for row in rows)
    return {
        "suite": suite.name,
        "run": origin.run,
        "identity": origin.identity,
        "prompt_set": prompts.header(),
        "seed": request.seed,
        "num_samples": request.num_samples,
        "sampler": dict(origin.settings),
        "num_planned": len(rows),
        "num_scored": scored,
        "num_missing": len(rows) - scored,
        "metrics": metrics,
        "by_task": breakdown(rows, "task"),
        "by_tag": breakdown(rows, "tag"),
        "by_split": breakdown(rows, "split"),
        "readers": scorers(prompts, worlds),
        "notes": [],
    }
