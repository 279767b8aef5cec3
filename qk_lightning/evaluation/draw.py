"""Drawing the items of a suite with a trained system; into a folder, it can be stopped any time.

B items of one layout (world, task, roles), pictures of 3 x H x W.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qk_lightning.data.collate import to_pixels, to_unit
from qk_lightning.data.randomness import normal
from qk_lightning.data.sample import Batch, World
from qk_lightning.evaluation.item import Item
from qk_lightning.evaluation.manifest import (
    Drawn,
    append_manifest,
    file_digest,
    image_path,
    read_manifest,
)
from qk_lightning.evaluation.prompt_set import write_picture
from qk_lightning.systems.query_kontext import QueryKontext

NOISE = "val/draw"  # as in QueryKontext.predict_step
# Items of one layout and the number of the sample -> [B, 3, H, W] uint8.
Drawer = Callable[[Sequence[Item], int], np.ndarray]
Progress = Callable[[int, int], None]


def layouts_of(items: Sequence[Item], batch_size: int) -> Iterator[list[Item]]:
    """Cut items into batches of one world, task and roles.

    Args:
        items: the items.
        batch_size: the most items of a batch.

    Yields:
        Batches, in the order of the items.
    """
    for _, group in groupby(items, lambda item: (item.world, item.task, item.roles)):
        members = list(group)
        for start in range(0, len(members), batch_size):
            yield members[start : start + batch_size]


def batch_of(items: Sequence[Item], world: World) -> Batch:
    """Make the batch that a system draws from.

    Args:
        items: B items of one layout.
        world: their world.
    """
    first = items[0]
    images = None
    if first.roles:
        images = to_unit(np.stack([[world.image(row) for row in item.images] for item in items]))
    return Batch(
        ids=[item.id for item in items],
        index=torch.tensor([item.index for item in items]),
        task=first.task,
        prompts=[item.prompt for item in items],
        images=images,
        roles=first.roles,
        target=torch.zeros(len(items), 3, world.size, world.size),
    )


class SystemDrawer:
    """Draws with a system: the noise of an item belongs to (seed + sample, index).

    Args:
        system: with its parts built and loaded.
        worlds: the worlds by kind.
    """

    def __init__(self, system: QueryKontext, worlds: Mapping[str, World]) -> None:
        self.system = system.eval()
        self.worlds = worlds

    @property
    def settings(self) -> dict[str, Any]:
        """How it samples, in the manifest's names."""
        sampling = self.system.config.sampling
        return {
            "num_inference_steps": int(sampling.num_inference_steps),
            "guidance_scale": float(sampling.guidance_scale),
        }

    @torch.no_grad()
    def __call__(self, items: Sequence[Item], sample: int = 0) -> np.ndarray:
        """Draw one picture of each item.

        Args:
            items: B items of one layout.
            sample: number of the picture among those of an item.

        Returns:
            [B, 3, H, W] uint8.
        """
        batch = batch_of(items, self.worlds[items[0].world])
        shape = self.system.latent_shape(batch)
        noise = normal(items[0].seed + sample, NOISE, batch.index, shape)
        device = self.system.device
        latents = self.system.sample(batch.to(device), noise.to(device))
        return to_pixels(self.system.autoencoder.decode(latents).clamp(-1, 1))


def draw_folder(
    folder: Path,
    items: Sequence[Item],
    num_samples: int,
    drawer: Drawer,
    settings: Mapping[str, Any],
    batch_size: int,
    fingerprints: Mapping[str, str],
    progress: Progress | None = None,
) -> int:
    """Draw what is missing in a folder.

    A picture stays if its file is the one that the manifest names and was drawn for the same
    prompt and inputs with the same settings; any other is drawn again.

    Args:
        folder: gets images/ and manifest.jsonl.
        items: what is drawn.
        num_samples: pictures of each item.
        drawer: draws.
        settings: run, identity and sampler, in the manifest's names.
        batch_size: items of a forward pass.
        fingerprints: of each world.
        progress: called with (done, total) pictures.

    Returns:
        How many were drawn now.
    """
    standing = read_manifest(folder)
    total, done = len(items) * num_samples, 0
    drawn_now = 0
    of = {item.id: {**settings, "asked": item.digest(fingerprints[item.world])} for item in items}
    for sample in range(num_samples):
        missing = [one for one in items if not _stands(folder, standing, one, sample, of[one.id])]
        done += len(items) - len(missing)
        for batch in layouts_of(missing, batch_size):
            images = drawer(batch, sample)
            append_manifest(
                folder,
                [
                    _write(folder, item, sample, image, of[item.id])
                    for item, image in zip(batch, images, strict=True)
                ],
            )
            drawn_now += len(batch)
            done += len(batch)
            if progress is not None:
                progress(done, total)
    return drawn_now


def _stands(
    folder: Path,
    standing: Mapping[tuple[str, int], Drawn],
    item: Item,
    sample: int,
    settings: Mapping[str, Any],
) -> bool:
    drawn = standing.get((item.id, sample))
    if drawn is None or not drawn.fits({**settings, "seed": item.seed + sample}):
        return False
    return file_digest(folder / drawn.path) == drawn.sha256


def _write(
    folder: Path, item: Item, sample: int, image: np.ndarray, settings: Mapping[str, Any]
) -> Drawn:
    path = image_path(item.id, sample)
    write_picture(folder / path, image)
    return Drawn(
        id=item.id,
        sample=sample,
        path=path,
        sha256=file_digest(folder / path),
        width=image.shape[2],
        height=image.shape[1],
        seed=item.seed + sample,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        **settings,
    )
