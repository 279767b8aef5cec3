"""What is measured at the end of a run: the suites that fit its worlds and tasks, in short.

The same first items and the same noise for every run, so that runs compare. `qk evaluate` scores
all items by the same code. B pictures of 3 x H x W, uint8.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qk_lightning.config.atomic import aside, write_json
from qk_lightning.config.contradictions import WITHOUT_IMAGES
from qk_lightning.config.run_folder import RunFolder
from qk_lightning.data.collate import to_unit
from qk_lightning.data.module import DataModule
from qk_lightning.data.sample import World
from qk_lightning.evaluation.draw import SystemDrawer, layouts_of
from qk_lightning.evaluation.item import Item, Metric, Pictures
from qk_lightning.evaluation.levels import EVALUATIONS, FINAL, SUMMARY
from qk_lightning.evaluation.prompt_set import make_prompt_set, write_picture
from qk_lightning.evaluation.run_suite import (
    Origin,
    Request,
    fitting_suites,
    own_shuffled,
    summarise,
)
from qk_lightning.evaluation.score import score_pictures, write_results
from qk_lightning.evaluation.suite import Suite, worlds_of
from qk_lightning.evaluation.verdict import Verdict
from qk_lightning.systems.query_kontext import QueryKontext

# Drawn after every stage, trained or not: alignment, and reconstruction through the VLM alone.
ALWAYS = ("text_to_image", "reconstruction")
SHARES = {"text_to_image": 1.0, "reconstruction": 0.5}  # of validation.num_images, by task
OTHER_SHARE = 0.25
log = logging.getLogger("qk_lightning")


def tasks_to_draw(world: World, trained: Mapping[str, float], *, sees: bool = True) -> list[str]:
    """List the tasks that are drawn and scored.

    Args:
        world: the world.
        trained: weight by task.
        sees: whether the VLM reads images.

    Returns:
        Tasks with validation samples.
    """
    offered = [task for task in world.tasks if sees or task in WITHOUT_IMAGES]
    wanted = [task for task in offered if task in ALWAYS or trained.get(task)]
    return [task for task in wanted if world.num_samples(task, "val")]


def score_stage(system: QueryKontext, data: DataModule, run: RunFolder) -> dict[str, float]:
    """Draw validation pictures, score them by every suite that fits, and keep a few.

    Args:
        system: the trained system.
        data: its data.
        run: gets `evaluations/final/<suite>/` with prompts, verdicts and summary, and
            `samples/final/` with `<item>.png`, `input<n>_<item>.png`, `target_<item>.png` and
            `prompts.json`.

    Returns:
        Value by `eval/<suite>/<metric>`; the controls stand in the summaries.
    """
    options = system.config.validation
    worlds = worlds_of(data.world)
    trained, sees = dict(system.config.data.tasks), system.vlm.reads_images
    tasks = tasks_to_draw(data.world, trained, sees=sees)
    suites = fitting_suites(worlds, tasks)
    covered = {kind for suite in suites for kind in suite.parts}
    wanted = options.get("suites")  # none in a run that is older than the option
    suites = [one for one in suites if not wanted or one.name in wanted]
    others = {kind: world for kind, world in worlds.items() if kind not in covered}
    if others:
        suites.append(Likeness(others, tasks))
    if wanted and not suites:
        log.warning("validation.suites: none of %s has anything to draw here", list(wanted))
    drawer = SystemDrawer(system, worlds)
    scores: dict[str, float] = {}
    shown: list[_Shown] = []
    with aside(run.path / EVALUATIONS / FINAL) as folder:
        folder.mkdir(parents=True)
        for suite in suites:
            request = Request({task: _count(options.num_images, task) for task in tasks})
            prompts = make_prompt_set(suite, worlds, request.count, 0, tasks)
            images = _draw(drawer, prompts.items, options.batch_size)
            rows = score_pictures(suite, worlds, prompts.items, images)
            origin = Origin(run.name, run.identity, drawer.settings)
            own = own_shuffled(prompts, worlds, images)
            summary = summarise(prompts, worlds, rows, own, request, origin, system.autoencoder)
            prompts.write(folder / suite.name)
            write_results(folder / suite.name, rows)
            write_json(folder / suite.name / SUMMARY, summary)
            scores |= {name: entry["value"] for name, entry in summary["metrics"].items()}
            shown += [_Shown(item, images[item.id], suite) for item in prompts.items]
    _keep_pictures(shown, worlds, options.num_grid, run.samples / FINAL)
    return scores


def _count(num_images: int, task: str) -> int:
    """Return how many pictures of a world and task are drawn: most where rows are compared."""
    return max(1, round(num_images * SHARES.get(task, OTHER_SHARE)))


def _draw(drawer: SystemDrawer, items: Sequence[Item], batch_size: int) -> dict[str, np.ndarray]:
    drawn: dict[str, np.ndarray] = {}
    for batch in layouts_of(items, batch_size):
        images = drawer(batch)
        drawn |= {item.id: image for item, image in zip(batch, images, strict=True)}
    return drawn


class Likeness(Suite):
    """PSNR against the target, for worlds that no suite and no reader knows.

    Args:
        worlds: those worlds, by kind.
        tasks: their tasks.
    """

    name = "likeness"
    controls = ("gt", "recon", "shuffled", "blank")

    def __init__(self, worlds: Mapping[str, World], tasks: Sequence[str]) -> None:
        self.parts = dict.fromkeys(worlds, tuple(tasks))

    def scorer(self, world: World) -> str:
        """Name the rule: there is no reader."""
        return "psnr 1"

    def verdicts(self, world: World, pictures: Pictures) -> list[Verdict]:
        """Measure the PSNR of each picture; nothing is called right."""
        from qk_lightning.systems.autoencoder import image_psnr

        target = torch.stack([to_unit(world.image(item.target)) for item in pictures.items])
        values = image_psnr(to_unit(pictures.images), target).tolist()
        return [Verdict(False, 0.0, "not judged", {"psnr": value}) for value in values]

    def metrics(self, items: Sequence[Item]) -> list[Metric]:
        """List PSNR in dB a task."""
        return [
            Metric(f"{task}_psnr", "psnr", (task,), is_share=False)
            for task in dict.fromkeys(item.task for item in items)
        ]


@dataclass(frozen=True)
class _Shown:
    """A picture that was drawn."""

    item: Item
    image: np.ndarray
    suite: Suite

    @property
    def block(self) -> str:
        """The heading that it stands under."""
        return self.item.suite if self.item.suite in ("knowledge", "roles") else self.item.task


def _keep_pictures(
    shown: Sequence[_Shown], worlds: Mapping[str, World], count: int, folder: Path
) -> None:
    listed: list[dict[str, Any]] = []
    with aside(folder) as target:
        target.mkdir(parents=True)
        for block in dict.fromkeys(one.block for one in shown):
            here = [one for one in shown if one.block == block]
            for number, one in enumerate(_of_each_world(here, count)):
                listed.append(_keep(one, f"{block}_{number}", worlds[one.item.world], target))
        write_json(target / "prompts.json", listed)


def _of_each_world(shown: Sequence[_Shown], count: int) -> list[_Shown]:
    """Choose the first pictures, as many of each world."""
    kinds = list(dict.fromkeys(one.item.world for one in shown))
    chosen = []
    for place, kind in enumerate(kinds):
        wanted = count // len(kinds) + (place < count % len(kinds))
        chosen += [one for one in shown if one.item.world == kind][:wanted]
    return chosen


def _keep(one: _Shown, name: str, world: World, folder: Path) -> dict[str, Any]:
    write_picture(folder / f"{name}.png", one.image)
    write_picture(folder / f"target_{name}.png", one.suite.target(world, one.item))
    for place, row in enumerate(one.item.images):
        write_picture(folder / f"input{place}_{name}.png", world.image(row))
    listed = {"id": name, "task": one.block, "prompt": one.item.prompt}
    return {**listed, "inputs": len(one.item.images), "roles": list(one.item.roles)}
