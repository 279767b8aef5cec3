"""What is measured at the end of a run: pictures drawn for fixed samples with fixed noise.

The same validation samples and the same noise for every run of a world, so that runs compare.
B pictures of 3 x H x W.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from qk_lightning.config.atomic import aside, write_json
from qk_lightning.data.collate import to_pixels
from qk_lightning.data.module import DataModule
from qk_lightning.data.sample import Batch, World
from qk_lightning.data.worlds.avatars import Avatars
from qk_lightning.evaluation.avatar_reader import AvatarReader
from qk_lightning.systems.autoencoder import image_psnr
from qk_lightning.systems.query_kontext import QueryKontext

# Drawn after every stage, trained or not: alignment, and reconstruction through the VLM alone.
ALWAYS = ("text_to_image", "reconstruction")
MAX_GRID_PROMPT = 120


def tasks_to_draw(world: World, trained: dict[str, float]) -> list[str]:
    """List the tasks that are drawn and scored.

    Args:
        world: the world.
        trained: weight by task.

    Returns:
        Tasks with validation samples.
    """
    wanted = [task for task in world.tasks if task in ALWAYS or trained.get(task)]
    return [task for task in wanted if world.num_samples(task, "val")]


@torch.no_grad()
def score_stage(system: QueryKontext, data: DataModule, folder: Path) -> dict[str, float]:
    """Draw validation pictures, keep a few, and score all.

    Args:
        system: the trained system.
        data: its data.
        folder: where pictures go: `<item>.png`, `target_<item>.png` and `prompts.json`.

    Returns:
        `eval/<task>/psnr` in dB against the target (a mean over images), `eval/<task>/accuracy`
        and `/chance` of attributes where the world has a reader (`/changed` and `/kept`: of those
        that an edit changes and keeps; `/all_right`: share of pictures without a mistake), and
        `eval/reconstruction/ceiling`, the codec's own PSNR.
    """
    options = system.config.validation
    system.eval()
    reader = reader_of(data.world)
    scores: dict[str, float] = {}
    shown: list[dict[str, Any]] = []
    with aside(folder) as target_folder:
        target_folder.mkdir(parents=True)
        for task in tasks_to_draw(data.world, dict(system.config.data.tasks)):
            batches = data.val_batches(task, options.num_images, options.batch_size)
            drawn = [system.predict_step(batch.to(system.device), 0).cpu() for batch in batches]
            scores |= _task_scores(task, batches, drawn, reader)
            shown += _keep_pictures(task, batches[0], drawn[0], options.num_grid, target_folder)
            if task == "reconstruction":
                scores["eval/reconstruction/ceiling"] = _codec_psnr(system, batches)
        write_json(target_folder / "prompts.json", shown)
    return scores


def reader_of(world: World) -> AvatarReader | None:
    """Return what reads attributes off a world's pictures, None where nothing can.

    Args:
        world: the world.
    """
    return AvatarReader(world) if isinstance(world, Avatars) else None


def _task_scores(
    task: str, batches: list[Batch], drawn: list[Tensor], reader: AvatarReader | None
) -> dict[str, float]:
    images, target = torch.cat(drawn), torch.cat([batch.target for batch in batches])
    scores = {f"eval/{task}/psnr": image_psnr(images, target).mean().item()}
    facts = [item for batch in batches for item in batch.facts]
    if reader is not None and reader.can_read(facts):
        accuracy = reader.accuracy(images, facts)
        scores[f"eval/{task}/accuracy"] = accuracy.mean
        scores[f"eval/{task}/chance"] = accuracy.chance
        for name in ("changed", "kept", "all_right"):
            if (value := getattr(accuracy, name)) is not None:
                scores[f"eval/{task}/{name}"] = value
    return scores


def _codec_psnr(system: QueryKontext, batches: list[Batch]) -> float:
    target = torch.cat([batch.target for batch in batches]).to(system.device)
    decoded = system.autoencoder.decode(system.autoencoder.encode(target)).clamp(-1, 1)
    return image_psnr(decoded, target).mean().item()


def _keep_pictures(
    task: str, batch: Batch, drawn: Tensor, count: int, folder: Path
) -> list[dict[str, Any]]:
    shown = []
    for number in range(min(count, len(drawn))):
        item = f"{task}_{number}"
        save_picture(drawn[number], folder / f"{item}.png")
        save_picture(batch.target[number], folder / f"target_{item}.png")
        inputs = [] if batch.images is None else list(batch.images[number])
        for place, image in enumerate(inputs):
            save_picture(image, folder / f"input{place}_{item}.png")
        prompt = batch.prompts[number][:MAX_GRID_PROMPT]
        shown.append({"id": item, "task": task, "prompt": prompt, "inputs": len(inputs)})
    return shown


def save_picture(image: Tensor, path: Path) -> None:
    """Write one picture as PNG.

    Args:
        image: [3, H, W] in [-1, 1].
        path: the file.
    """
    Image.fromarray(to_pixels(image).transpose(1, 2, 0)).save(path)
