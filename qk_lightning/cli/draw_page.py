"""`qk generate --ui`: the page to draw in, served to this machine alone, until Ctrl-C."""

from __future__ import annotations

import argparse
import os
import sys
import threading
from typing import Any

from qk_lightning.cli.draw import run_of
from qk_lightning.config.arguments import check_seed
from qk_lightning.config.errors import ConfigError, Problem
from qk_lightning.config.find_runs import list_runs
from qk_lightning.config.paths import user_path
from qk_lightning.tracking.page import free_port

HOST, FIRST_PORT = "127.0.0.1", 7860


def serve(options: argparse.Namespace) -> int:
    """Serve the page.

    Args:
        options: the parsed command line; what it says of a picture stands in the fields at first.

    Returns:
        0 after Ctrl-C.

    Raises:
        ConfigError: gradio is not installed, there is no run, or the port is taken.
    """
    start = _start(options)
    port = free_port(HOST, options.port, FIRST_PORT)
    chosen = [run_of(text) for text in options.run]
    known = {run.name: run for run in [*chosen, *drawing_runs()]}
    if not known:
        fix = "train one: qk fit laptop/stage1"
        raise ConfigError(Problem("run", None, "a finished run that draws pictures", fix))
    names = list(known)
    print(f"{len(names)} runs to draw with\nstarting the page ...", file=sys.stderr, flush=True)
    page = _build(known, names, [run.name for run in chosen] or names[:1], options.device, start)
    _launch(page, port)
    try:
        print(f"http://{HOST}:{port}  (Ctrl-C ends it)", flush=True)
        threading.Event().wait()
    except KeyboardInterrupt:
        print("\nended")
    finally:
        page.close(verbose=False)
    return 0


def drawing_runs() -> list[Any]:
    """List the finished runs that draw pictures, newest first."""
    return [run for run in reversed(list_runs()) if run.is_done and "head" in run.config]


def _start(options: argparse.Namespace) -> dict[str, Any]:
    """Return what stands in the fields at first.

    Raises:
        ConfigError: an option has no effect on the page, or a picture is not there.
    """
    problems = [
        Problem(flag, value, "nothing: it has no effect on the page", "leave it out")
        for flag, value, default in (
            ("--num-images", options.num_images, 1),
            ("--output", options.output, "generated"),
        )
        if value != default
    ]
    files = [user_path(file, "picture") for file in (*options.source, *options.reference)]
    problems += [
        Problem("picture", str(file), "a file", "check the path")
        for file in files
        if not file.is_file()
    ]
    if problems:
        raise ConfigError(problems)
    check_seed("--seed", options.seed)
    source = [*options.source, None][:1]
    values = {name: getattr(options, name) for name in ("prompt", "height", "width")}
    for name in ("num_inference_steps", "guidance_scale", "image_guidance_scale"):
        values[name] = getattr(options, name)
    return {**values, "seeds": options.seed, "images": [*source, *options.reference]}


def _build(
    known: dict[str, Any], names: list[str], chosen: list[str], device: str, start: dict[str, Any]
) -> Any:
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        fix = "pip install -e '.[ui]'"
        raise ConfigError(Problem("--ui", None, "gradio, which is an extra", fix)) from error
    from qk_lightning.pipeline import QueryKontextPipeline
    from qk_lightning.pipeline.page import NUM_REFERENCES, Pipelines, build_page
    from qk_lightning.pipeline.query_kontext import check_device

    check_device(device)
    if len(start["images"]) > 1 + NUM_REFERENCES:
        expected = f"up to {NUM_REFERENCES} pictures: the page has so many fields"
        raise ConfigError(Problem("--reference", len(start["images"]) - 1, expected, "give fewer"))
    pipelines = Pipelines(lambda name: QueryKontextPipeline.from_run(known[name], device))
    return build_page(pipelines, names, chosen, start)


def _launch(page: Any, port: int) -> None:
    import gradio

    # Fonts of this machine: the page asks nothing of other servers.
    theme = gradio.themes.Default(font=["sans-serif"], font_mono=["monospace"])
    page.launch(
        server_name=HOST,
        server_port=port,
        share=False,
        inbrowser=False,
        prevent_thread_lock=True,
        quiet=True,
        ssr_mode=False,
        footer_links=["api"],
        theme=theme,
    )
