"""Requests drawn batch by batch, and the numbers of sampling for a while.

Not here: making requests of arguments (requests.py), noise, outputs. N input images,
C x h x w latents.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from qk_lightning.config.arguments import check_counts, check_numbers
from qk_lightning.data.collate import to_unit
from qk_lightning.data.pictures import load_picture
from qk_lightning.data.sample import Batch
from qk_lightning.pipeline.noise import Noise
from qk_lightning.pipeline.progress import step_bar
from qk_lightning.pipeline.requests import Request, groups_of
from qk_lightning.systems.query_kontext import QueryKontext

STEPS = "num_inference_steps"


def draw_requests(
    system: QueryKontext,
    requests: Sequence[Request],
    noise: Noise,
    is_latent: bool,
    bar_options: Mapping[str, Any],
) -> list[Tensor]:
    """Draw every request, batch by batch, and put the results in the order asked.

    Args:
        system: with its parts loaded.
        requests: one a prompt; those of one layout make a batch.
        noise: where it comes from, and how many pictures of each.
        is_latent: leave out decoding.
        bar_options: for tqdm.

    Returns:
        [3, H, W] in [-1, 1], or latents [C, h, w], `noise.num_images` for each request in turn.
    """
    groups = list(groups_of(requests))
    batches = [batch_of([requests[place] for place in of], noise.num_images) for of in groups]
    shapes = {
        place: system.latent_shape(batch)
        for places, batch in zip(groups, batches, strict=True)
        for place in places
    }
    drawn = noise.draw([shapes[place] for place in range(len(requests))])
    found: dict[int, Tensor] = {}
    steps = int(system.config.sampling[STEPS])
    with step_bar(system.head, steps * len(groups), bar_options) as bar:
        for places, batch in zip(groups, batches, strict=True):
            with bar.batch(steps):
                starts = torch.cat([drawn[place] for place in places]).to(system.device)
                latents = system.sample(batch.to(system.device), starts)
            kept = latents
            if not is_latent:
                kept = system.autoencoder.decode(latents).clamp(-1, 1)
            for place, of_prompt in zip(places, kept.split(noise.num_images), strict=True):
                found[place] = of_prompt
    return [image for place in range(len(requests)) for image in found[place]]


def batch_of(requests: Sequence[Request], num_images: int = 1) -> Batch:
    """Stack requests of one layout.

    Args:
        requests: the requests.
        num_images: how many pictures are drawn of each.

    Returns:
        A batch with each of them so many times.
    """
    first = requests[0]
    count = len(requests) * num_images
    size = (first.height, first.width)
    images = None
    if first.roles:
        read = [[to_unit(load_picture(p, size)) for p in item.images] for item in requests]
        stacked = torch.stack([torch.stack(pictures) for pictures in read])
        images = stacked.repeat_interleave(num_images, 0)
    return Batch(
        ids=[str(number) for number in range(count)],
        index=torch.arange(count),
        task=first.task,
        prompts=[item.prompt for item in requests for _ in range(num_images)],
        images=images,
        roles=first.roles,
        target=torch.zeros(count, 3, *size),
    )


@contextmanager
def sampling(system: QueryKontext, **given: Any) -> Iterator[None]:
    """Let a system sample with other numbers for a while.

    Args:
        system: its options are put back afterwards.
        **given: as in `check_sampling`.

    Raises:
        ConfigError: with those that are out of range.
    """
    check_sampling(**given)
    options = system.config.sampling
    own = dict(options)
    options.update({name: value for name, value in given.items() if value is not None})
    try:
        yield
    finally:
        options.update(own)


def check_sampling(**given: float | None) -> None:
    """See that pictures can be drawn with these numbers.

    Args:
        **given: `num_inference_steps` and scales of guidance; None = the run's own.

    Raises:
        ConfigError: with those that are out of range.
    """
    check_counts([STEPS], **{STEPS: given.get(STEPS)})
    check_numbers(**given)
