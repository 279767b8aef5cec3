"""The page of `qk generate --ui`: one prompt drawn by several runs, seed by seed.

`draw_grid` is what the page does, without gradio; `build_page` puts fields around it. Not here:
the server (cli/draw_page.py).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from qk_lightning.config.arguments import check_seed
from qk_lightning.config.errors import ConfigError, Problem

if TYPE_CHECKING:
    from PIL.Image import Image

    from qk_lightning.pipeline import Picture, QueryKontextPipeline

NUM_REFERENCES = 3  # fields of the page
MAX_LOADED = 4  # runs whose parts stay in memory
SHOWN = 256  # smaller pictures are enlarged to about that for the eye
# Arguments of the pipeline that an empty field leaves to the run: name -> label.
NUMBERS = {
    "num_inference_steps": "steps",
    "guidance_scale": "guidance, prompt",
    "image_guidance_scale": "guidance, pictures",
    "height": "height",
    "width": "width",
}
WHOLE = ("num_inference_steps", "height", "width")


@dataclass
class Pipelines:
    """Pipelines by the name of their run; those used last stay loaded.

    Args:
        load: makes the pipeline of a run.
    """

    load: Callable[[str], QueryKontextPipeline]
    _loaded: dict[str, QueryKontextPipeline] = field(default_factory=dict)

    def get(self, run: str) -> QueryKontextPipeline:
        """Return a run's pipeline.

        Args:
            run: its name.
        """
        pipeline = self._loaded.pop(run, None) or self.load(run)
        self._loaded[run] = pipeline  # the newest last
        while len(self._loaded) > MAX_LOADED:
            del self._loaded[next(iter(self._loaded))]
        return pipeline


@dataclass(frozen=True)
class Grid:
    """What was drawn.

    Args:
        pictures: (picture, caption), seed by seed, and for each seed run by run.
        columns: runs.
        said: a line for people.
    """

    pictures: list[tuple[Image, str]]
    columns: int
    said: str


def read_seeds(text: str) -> list[int]:
    """Read seeds as people write them: `0`, `0, 1, 7`, `0-3`.

    Args:
        text: what stands in the field.

    Returns:
        The seeds, each once.

    Raises:
        ConfigError: it is no such list.
    """
    seeds: list[int] = []
    for word in re.split(r"[\s,;]+", text.strip()):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", word)
        if match is None:
            raise ConfigError(Problem("seeds", text, "whole numbers", "for example 0, 1, or 0-3"))
        first, last = int(match[1]), int(match[2] or match[1])
        check_seed("seeds", first)
        check_seed("seeds", last)
        if last - first > 99:
            raise ConfigError(Problem("seeds", text, "up to 100 of them", "for example 0-3"))
        seeds += range(first, last + 1)
    return list(dict.fromkeys(seeds))


def read_number(name: str, text: str) -> float | int:
    """Read a number of a field.

    Args:
        name: the pipeline's argument.
        text: what stands in the field.

    Returns:
        A whole number where the argument wants one.

    Raises:
        ConfigError: it is none.
    """
    kind, example = (int, "8") if name in WHOLE else (float, "1.5")
    try:
        return kind(text.strip())
    except ValueError as error:
        expected = "a whole number" if kind is int else "a number"
        fix = f"for example {example}; empty = the run's own"
        raise ConfigError(Problem(name, text, expected, fix)) from error


def draw_grid(
    pipelines: Pipelines,
    runs: Sequence[str],
    prompt: str,
    images: Sequence[tuple[str, Picture]],
    seeds: str,
    options: Mapping[str, str],
) -> Grid:
    """Draw the same with every run: the same prompt, pictures and noise.

    Args:
        pipelines: makes the pipelines.
        runs: names of runs.
        prompt: the caption or instruction.
        images: pairs of role and picture.
        seeds: as `read_seeds` reads them.
        options: numbers as texts, by the pipeline's argument; "" = the run's own.

    Returns:
        The pictures.

    Raises:
        ConfigError: no run is chosen, or a run cannot draw this.
    """
    if not runs:
        raise ConfigError(Problem("runs", None, "at least one run", "choose one above"))
    numbers = read_seeds(seeds)
    given = {name: read_number(name, text) for name, text in options.items() if text.strip()}
    found, began = {}, time.perf_counter()
    for run in runs:
        pipeline = pipelines.get(run)
        for seed in numbers:
            (picture,) = pipeline(prompt, images=list(images), seed=seed, **given)
            found[seed, run] = (_for_the_eye(picture), f"{run}, seed {seed}")
    pictures = [found[seed, run] for seed in numbers for run in runs]
    seconds = time.perf_counter() - began
    count = f"{len(pictures)} picture{'s' if len(pictures) > 1 else ''}"
    said = f"{count} in {seconds:.1f} s, loading included"
    return Grid(pictures, len(runs), said)


def _for_the_eye(picture: Image) -> Image:
    """Enlarge a small picture by a whole factor, its pixels kept square."""
    factor = max(1, SHOWN // max(picture.size))
    return picture.resize((picture.width * factor, picture.height * factor), resample=0)


def _text(value: object) -> str:
    return "" if value is None else str(value)


def build_page(
    pipelines: Pipelines,
    runs: Sequence[str],
    chosen: Sequence[str],
    start: Mapping[str, Any] | None = None,
) -> Any:
    """Build the page; gradio must be installed.

    Args:
        pipelines: makes the pipelines.
        runs: names of all runs that can be chosen.
        chosen: those that are chosen at first.
        start: what stands in the fields at first, by their name.

    Returns:
        gradio's Blocks, not yet served.
    """
    import gradio as gr

    start = start or {}
    # What is uploaded is kept for an hour, not for ever.
    with gr.Blocks(title="qk generate", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        names = gr.Dropdown(list(runs), value=list(chosen), multiselect=True, label="runs")
        prompt = gr.Textbox(value=start.get("prompt", ""), label="prompt", lines=2)
        with gr.Row():
            pictures = _picture_fields(start)
        with gr.Row():
            seeds = gr.Textbox(value=str(start.get("seeds", "0")), label="seeds, such as 0-3")
            numbers = _number_fields(start)
        button = gr.Button("draw", variant="primary")
        # Pictures stay as small as they are.
        words = {"label": "a column a run, a row a seed", "object_fit": "scale-down"}
        gallery = gr.Gallery(format="png", height="auto", **words)
        said = gr.Markdown()
        fields = [names, prompt, seeds, *pictures, *numbers]
        outputs, asked = [gallery, said], [button.click, prompt.submit]
        gr.on(asked, _drawer(pipelines), fields, outputs, api_name="draw")
    return page


def _picture_fields(start: Mapping[str, Any]) -> list[Any]:
    """Make a field for the source and one for each reference."""
    import gradio as gr

    labels = ["source", *(f"reference {n + 1}" for n in range(NUM_REFERENCES))]
    values = list(start.get("images", ()))
    values += [None] * (len(labels) - len(values))
    ways: Any = ["upload", "clipboard"]
    return [
        gr.Image(value=value, type="pil", label=label, height=180, sources=ways)
        for label, value in zip(labels, values, strict=True)
    ]


def _number_fields(start: Mapping[str, Any]) -> list[Any]:
    """Make the fields of NUMBERS: texts, since a browser sends 0 for an empty field of numbers."""
    import gradio as gr

    return [
        gr.Textbox(value=_text(start.get(name)), label=label, placeholder="the run's own")
        for name, label in NUMBERS.items()
    ]


def _drawer(pipelines: Pipelines) -> Callable[..., tuple[Any, str]]:
    """Return what the button does."""
    import gradio as gr

    def _draw(names: list[str], prompt: str, seeds: str, *fields: Any) -> tuple[Any, str]:
        """Draw what the fields say; gradio hands them over in order, pictures, then numbers."""
        roles = ["source", *["reference"] * NUM_REFERENCES]
        given, values = fields[: len(roles)], fields[len(roles) :]
        images = [(r, p) for r, p in zip(roles, given, strict=True) if p is not None]
        options = dict(zip(NUMBERS, map(_text, values), strict=True))
        try:
            grid = draw_grid(pipelines, names, prompt, images, seeds, options)
        except ConfigError as error:
            raise gr.Error(str(error), duration=None, print_exception=False) from error
        return gr.Gallery(value=grid.pictures, columns=grid.columns), grid.said

    return _draw
