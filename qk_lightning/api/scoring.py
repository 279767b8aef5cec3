"""Suites from a notebook: scores of a run or of anybody's pictures, and prompts to draw."""

from __future__ import annotations

import io
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qk_lightning.api.runs import load_run
from qk_lightning.config.arguments import SEED_BITS, check_counts, check_seed
from qk_lightning.config.paths import user_path
from qk_lightning.config.run_folder import RunFolder

if TYPE_CHECKING:
    from qk_lightning.data.sample import World


class Evaluation:
    """The scores of one suite, with their intervals and controls.

    Args:
        summary: what `summary.json` holds.
        folder: where pictures, verdicts and summary are.
    """

    def __init__(self, summary: dict[str, Any], folder: Path) -> None:
        self.summary = summary
        self.folder = folder

    @property
    def scores(self) -> dict[str, float]:
        """Value by metric."""
        return {name: entry["value"] for name, entry in self.summary["metrics"].items()}

    @property
    def rows(self) -> list[dict[str, Any]]:
        """A row a metric: value, 95 % bootstrap interval over prompts, and every control."""
        return [
            {
                "metric": name,
                "value": entry["value"],
                "low": entry["ci_low"],
                "high": entry["ci_high"],
                **entry["controls"],
            }
            for name, entry in self.summary["metrics"].items()
        ]

    def __repr__(self) -> str:
        """The table that the command line prints."""
        from rich.console import Console

        from qk_lightning.evaluation.table import WIDTH, print_summary

        text = io.StringIO()
        print_summary(self.summary, Console(file=text, width=WIDTH))
        return text.getvalue().rstrip()

    def _repr_html_(self) -> str:
        """The same table, in letters of equal width."""
        return f"<pre>{escape(repr(self))}</pre>"


def evaluate(
    run: str | RunFolder,
    suite: str = "all",
    *,
    limit: int | None = None,
    num_samples: int = 1,
    seed: int = 0,
    device: str = "cpu",
) -> list[Evaluation]:
    """Draw what is missing of a suite with a finished run, and score it.

    Args:
        run: a run, its name, or a preset that was trained.
        suite: a suite such as `avatars`, or `all` that fit the run's worlds.
        limit: the most items of each world and task; None = all.
        num_samples: pictures of each item.
        seed: of the first picture's noise.
        device: where to draw.

    Returns:
        The scores, one a suite.

    Raises:
        ConfigError: no such run or suite, or the run does not draw.
    """
    from qk_lightning.assembly.build import open_world
    from qk_lightning.evaluation.levels import EVALUATIONS
    from qk_lightning.evaluation.run_suite import Request, evaluate_run, folder_name, suites_for
    from qk_lightning.evaluation.suite import worlds_of
    from qk_lightning.tracking.mlflow_evaluation import log_evaluation

    _check_numbers(limit, num_samples, seed)
    found = load_run(run)
    world = open_world(found.config.data.world)
    worlds = worlds_of(world)
    suites = suites_for(suite, worlds)
    system = found.pipeline(device).system
    world.prepare()
    request = Request(limit, num_samples, seed)
    done = []
    for one in suites:
        summary = evaluate_run(found, system, worlds, one, request)
        folder = found.path / EVALUATIONS / folder_name(one, request)
        log_evaluation(found, summary, folder)
        done.append(Evaluation(summary, folder))
    return done


def score_pictures(
    pictures: str | Path,
    suite: str,
    overrides: Sequence[str] = (),
    *,
    limit: int | None = None,
    num_samples: int = 1,
    output: str | Path | None = None,
) -> list[Evaluation]:
    """Score anybody's pictures: a folder with `<id>.png` for the ids of `export_prompts`.

    Args:
        pictures: the folder.
        suite: a suite, or `all`.
        overrides: `<world>.<option>=value` where a world is not the default.
        limit: the most items of each world and task; None = all.
        num_samples: pictures of each item.
        output: where verdicts and summary go; None = `evaluation` in the folder.

    Returns:
        The scores, one a suite.

    Raises:
        ConfigError: no such suite or folder.
    """
    from qk_lightning.evaluation.controls import builtin_codec
    from qk_lightning.evaluation.prompt_set import make_prompt_set
    from qk_lightning.evaluation.run_suite import Origin, Request, score_prompts, suites_for

    _check_numbers(limit, num_samples)
    folder = user_path(pictures, "pictures")
    worlds, request = _default_worlds(overrides), Request(limit, num_samples)
    suites = suites_for(suite, worlds)
    done = []
    for one in suites:
        prompts = make_prompt_set(one, worlds, limit)
        into = Path(output or folder / "evaluation") / one.name
        origin, codec = Origin(str(folder)), builtin_codec()
        summary = score_prompts(folder, into, prompts, worlds, request, origin, codec)
        done.append(Evaluation(summary, into))
    return done


def export_prompts(
    suite: str,
    folder: str | Path,
    overrides: Sequence[str] = (),
    *,
    limit: int | None = None,
    seed: int = 0,
) -> list[Path]:
    """Write what a suite asks to draw: prompts, input pictures and targets, for another model.

    Args:
        suite: a suite, or `all`.
        folder: gets a folder a suite.
        overrides: `<world>.<option>=value` where a world is not the default.
        limit: the most items of each world and task; None = all.
        seed: of the noise that belongs to the first picture.

    Returns:
        The suites' folders.

    Raises:
        ConfigError: there is no such suite.
    """
    from qk_lightning.evaluation.prompt_set import export, make_prompt_set
    from qk_lightning.evaluation.run_suite import suites_for

    _check_numbers(limit, 1, seed)
    worlds = _default_worlds(overrides)
    written = []
    for one in suites_for(suite, worlds):
        written.append(Path(folder) / one.name)
        export(make_prompt_set(one, worlds, limit, seed), worlds, written[-1])
    return written


def _check_numbers(limit: object, num_samples: object, seed: object = 0) -> None:
    """Check what the functions here share, before anything is made."""
    check_counts(["limit"], limit=limit, num_samples=num_samples)
    check_seed("seed", seed, SEED_BITS)


def _default_worlds(overrides: Sequence[str]) -> dict[str, World]:
    from qk_lightning.cli.evaluate_folder import default_worlds

    worlds = default_worlds(overrides)
    for world in worlds.values():
        world.prepare()
    return worlds
