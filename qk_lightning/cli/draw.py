"""`qk generate`: pictures from a finished run."""

from __future__ import annotations

import argparse
import hashlib
import sys

from qk_lightning.config.arguments import check_counts, check_seed
from qk_lightning.config.atomic import aside
from qk_lightning.config.chain import plan_chain
from qk_lightning.config.errors import ConfigError, Problem
from qk_lightning.config.find_runs import find_run
from qk_lightning.config.paths import check_folder, list_presets, user_path
from qk_lightning.config.run_folder import RunFolder


def generate(options: argparse.Namespace) -> int:
    """Draw and save pictures.

    Args:
        options: the parsed command line.

    Returns:
        0.
    """
    check_counts(**{"--num-images": options.num_images})
    check_seed("--seed", options.seed)
    folder = user_path(options.output, "--output")
    check_folder("--output", folder)
    run = run_of(options.run)
    print(f"{run.name}: loading", file=sys.stderr, flush=True)  # torch takes a while
    from qk_lightning.pipeline import QueryKontextPipeline

    pipeline = QueryKontextPipeline.from_run(run, options.device)
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
    # Other prompts and settings do not write over these pictures.
    words = {key: value for key, value in vars(options).items() if key not in ("output", "seed")}
    asked = hashlib.sha256(repr(sorted(words.items())).encode()).hexdigest()[:6]
    for number, picture in enumerate(pictures):
        path = folder / f"{run.name}_{asked}_seed{options.seed}_{number}.png"
        with aside(path) as temporary:
            picture.save(temporary)
        print(path)
    count = f"{len(pictures)} picture{'s' if len(pictures) > 1 else ''}"
    print(f"{count} of {run.name} in {folder.resolve()}")
    return 0


def run_of(text: str) -> RunFolder:
    """Find a run, or the run of a preset as it stands.

    Args:
        text: a run's folder, name, or the beginning of either; or a preset that was trained.

    Returns:
        The run.

    Raises:
        ConfigError: there is no such run.
    """
    if text not in list_presets():
        return find_run(text)
    folder = plan_chain(text)[-1].folder
    if not folder.has_config:
        raise ConfigError(Problem("run", text, "a preset that was trained", f"qk fit {text}"))
    return folder
