"""Whether a head fits the data and the system around it, before anything trains.

Not here: whether the parts fit each other (build.py, trial.py).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from omegaconf import DictConfig

from qk_lightning.config.errors import Problem
from qk_lightning.data.sample import SPLITS, Roles, World
from qk_lightning.parts.base import Part
from qk_lightning.parts.heads.channels import slots_needed


def head_problems(
    parts: Mapping[str, Part], cfg: DictConfig, world: World, unseen: Collection[str] = ()
) -> list[Problem]:
    """Hold a head against the pictures' size, the input pictures and the padding it will see.

    Args:
        parts: parts by family; a system without a head has no problem.
        cfg: the resolved configuration.
        world: the world, which may be unprepared.
        unseen: tasks whose input pictures the system never gives to the head.

    Returns:
        What is wrong.
    """
    if "head" not in parts:
        return []
    problems = [
        *_size_problems(parts, world.size),
        *_image_problems(parts["head"], cfg, _layouts(cfg, world, unseen)),
        *_padding_problems(parts["head"], cfg),
    ]
    return list({str(problem): problem for problem in problems}.values())


def _size_problems(parts: Mapping[str, Part], size: int) -> Iterator[Problem]:
    head, stride = parts["head"], getattr(parts.get("autoencoder"), "stride", 1)
    multiple = stride * getattr(head, "cell_multiple", 1)
    most = getattr(head, "max_cells", None)
    if size % stride:
        return  # said of the autoencoder already
    if size % multiple:
        expected = f"a multiple of {multiple}: {stride} pixels a latent cell, {multiple // stride} "
        expected += f"cells a side of a token of {type(head).__name__}"
        fix = f"set data.world.size={max(multiple, size // multiple * multiple)}, or head.patch"
        yield Problem("data.world.size", size, expected, fix)
    elif most is not None and size > most * stride:
        expected = f"{most * stride} or less: {type(head).__name__} has positions for {most} cells"
        fix = f"set data.world.size={most * stride}, or a larger head.pos_embed_max_size"
        yield Problem("data.world.size", size, expected, fix)


def _image_problems(
    head: Part, cfg: DictConfig, layouts: Iterator[tuple[str, Roles]]
) -> Iterator[Problem]:
    """Say which low-level pictures of the tasks trained on cannot enter the head."""
    if not cfg.system.get("low_level") or getattr(head, "image_entry", "tokens") != "channels":
        return
    pictures = list(layouts)
    most = max((slots_needed(roles) for _, roles in pictures), default=0)
    slots = getattr(head, "num_image_slots", 0)
    if not slots:
        expected = "false: the head takes pictures as channels, and has no slot for one"
        fix = f"set head.num_image_slots={max(1, most)} for these tasks, or system.low_level=false"
        yield Problem("system.low_level", True, expected, fix)
        return
    for task, roles in pictures:
        if problem := head.image_problem(roles):
            expected = f"room for the pictures of {task} ({problem})"
            wider = f"head.num_image_slots={most}, or " if most > slots else ""
            yield Problem(
                "head.num_image_slots", slots, expected, f"set {wider}data.tasks.{task}=0"
            )


def _layouts(cfg: DictConfig, world: World, unseen: Collection[str]) -> Iterator[tuple[str, Roles]]:
    for task, weight in cfg.data.tasks.items():
        if weight and task in world.tasks and task not in unseen:
            for split in SPLITS:
                for roles, _ in world.layouts(task, split):
                    yield task, roles


def _padding_problems(head: Part, cfg: DictConfig) -> Iterator[Problem]:
    """Prompts of unlike lengths are padded; a head that attends to padding must not see it."""
    context = cfg.system.get("context", "queries")
    if getattr(head, "masks_padding", True) or context == "queries":
        return
    trainer, group = cfg.trainer, cfg.trainer.global_batch_size // cfg.data.groups_per_step
    micro = trainer.micro_batch_size or max(1, group // trainer.devices)
    if max(micro, cfg.validation.batch_size) > 1:
        expected = f"queries: {type(head).__name__} masks no padding, and prompts are padded"
        fix = "system.context=queries, or trainer.micro_batch_size=1 and validation.batch_size=1"
        yield Problem("system.context", context, expected, fix)
