"""`qk generate`: pictures from a finished run."""

from __future__ import annotations

import argparse
from pathlib import Path

from qk_lightning.config.atomic import aside
from qk_lightning.config.errors import ConfigError, Problem
from qk_lightning.config.run_folder import find_run


def generate(options: argparse.Namespace) -> int:
    """Draw and save pictures.

    Args:
        options: the parsed command line.

    Returns:
        0.
    """
    if options.num_images < 1:
        raise ConfigError(Problem("--num-images", options.num_images, "1 or more", "raise it"))
    run = find_run(options.run)
    from qk_lightning.pipeline import QueryKontextPipeline

    pipeline = QueryKontextPipeline.from_run(run)
    pictures = pipeline(
        options.prompt,
        options.source,
        options.reference,
        num_images=options.num_images,
        seed=options.seed,
        num_inference_steps=options.num_inference_steps,
        guidance_scale=options.guidance_scale,
        image_guidance_scale=options.image_guidance_scale,
    )
    folder = Path(options.output)
    for number, picture in enumerate(pictures):
        path = folder / f"{run.name}_seed{options.seed}_{number}.png"
        with aside(path) as temporary:
            picture.save(temporary)
        print(path)
    return 0
