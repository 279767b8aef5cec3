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
    if options.ui:
        return _serve(options)
    name = _one_run(options)
    check_counts(**{"--num-images": options.num_images})
    check_seed("--seed", options.seed)
    folder = user_path(options.output, "--output")
    check_folder("--output", folder)
    run = run_of(name)
    if options.prompt is None and not (options.source or options.reference):
        expected, fix = "what to draw", '--prompt "a person with red hair"; --prompt "" for none'
        raise ConfigError(Problem("--prompt", None, expected, fix))
    options.prompt = options.prompt or ""
    print(f"{run.name}: loading", file=sys.stderr, flush=True)  # torch takes a while
    from qk_lightning.pipeline import QueryKontextPipeline
    from qk_lightning.training.at_checkpoint import run_at

    with run_at(run, options.checkpoint) as chosen:
        pipeline = QueryKontextPipeline.from_run(chosen, options.device)
    pictures = pipeline(
        options.prompt,
        options.source,
        options.reference,
        height=options.height,
        width=options.width,
        num_images=options.num_images,
        seed=options.seed,
        num_inference_steps=options.num_inference_steps,
        guidance_scale=options.guidance_scale,
        image_guidance_scale=options.image_guidance_scale,
    )
    asked = _digest(options, name)
    for number, picture in enumerate(pictures):
        path = folder / f"{run.name}_{asked}_seed{options.seed}_{number}.png"
        with aside(path) as temporary:
            picture.save(temporary)
        print(path)
    count = f"{len(pictures)} picture{'s' if len(pictures) > 1 else ''}"
    print(f"{count} of {run.name} in {folder.resolve()}")
    return 0


def _serve(options: argparse.Namespace) -> int:
    from qk_lightning.cli.draw_page import serve

    if options.checkpoint is not None:
        fix = "leave it out, or draw without the page"
        raise ConfigError(Problem("--checkpoint", options.checkpoint, "no --ui", fix))
    return serve(options)


def _one_run(options: argparse.Namespace) -> str:
    """Return the one run that is drawn with.

    Raises:
        ConfigError: there is none or more than one, or a port for no page.
    """
    usage = 'usage: qk generate RUN --prompt "a prompt", or qk generate --ui'
    if len(options.run) != 1:
        given = " ".join(options.run) or None
        raise ConfigError(Problem("run", given, "one run", usage))
    if options.port is not None:
        raise ConfigError(Problem("--port", options.port, "--ui", "add it, or leave --port out"))
    return str(options.run[0])


def _digest(options: argparse.Namespace, name: str) -> str:
    """Name what is asked: other prompts and settings do not write over these pictures."""
    left_out = ("output", "seed", "ui", "port")
    words = {key: value for key, value in vars(options).items() if key not in left_out}
    words |= {"run": name}
    for key in (
        "height",
        "width",
        "checkpoint",
    ):  # without them, files keep the names they always had
        if words[key] is None:
            del words[key]
    return hashlib.sha256(repr(sorted(words.items())).encode()).hexdigest()[:6]


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
