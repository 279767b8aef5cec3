"""Pictures from a finished run, in one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qk_lightning.api.runs import load_run
from qk_lightning.config.arguments import check_drawing
from qk_lightning.config.run_folder import RunFolder

if TYPE_CHECKING:
    from PIL.Image import Image

    from qk_lightning.pipeline import Picture


def generate(
    run: str | RunFolder,
    prompt: str = "",
    sources: Sequence[Picture] = (),
    references: Sequence[Picture] = (),
    *,
    num_images: int = 1,
    seed: int = 0,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    image_guidance_scale: float | None = None,
    device: str = "cpu",
) -> list[Image]:
    """Draw with a finished run; `load_run(run).pipeline()` loads its parts once for many calls.

    Args:
        run: a run, its name, or a preset that was trained.
        prompt: the caption or instruction; may be empty.
        sources: the picture to edit, if any: a file or a PIL image.
        references: pictures whose identity is kept.
        num_images: how many to draw, 1 or more.
        seed: of the noise.
        num_inference_steps: steps of the scheduler; None = the run's own.
        guidance_scale: weight of the prompt; None = the run's own.
        image_guidance_scale: weight of the pictures; None = the run's own.
        device: where to draw.

    Returns:
        The pictures.

    Raises:
        ConfigError: no such run, a picture cannot be read, or a number is out of range.
    """
    check_drawing(prompt, num_images, seed)
    return load_run(run).pipeline(device)(
        prompt,
        sources,
        references,
        num_images=num_images,
        seed=seed,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        image_guidance_scale=image_guidance_scale,
    )
