"""Draws pipeline_tasks.svg: every task of stage 3, its first validation samples, by pipelines.

    python docs/pictures/pipeline_tasks.py pipeline_tasks.svg text_to_image=RUN editing=RUN ...

A task's run is a finished run or an exported folder; a task may be given twice, for two worlds.
"""

from __future__ import annotations

import base64
import io
import sys
import textwrap
from collections.abc import Iterator
from html import escape
from pathlib import Path

from PIL import Image

from qk_lightning.assembly.build import open_world
from qk_lightning.config.find_runs import find_run
from qk_lightning.pipeline import QueryKontextPipeline

COUNT, WIDTH, CELL, LINE, LETTERS = 4, 900, 64, 9, 40
HEADER = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w} {h}" width="{w}" height="{h}" '
    'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>'
)


def picture(image: Image.Image, left: int, top: int, is_drawn: bool) -> str:
    """Place a picture, framed if a pipeline drew it."""
    file = io.BytesIO()
    image.save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode()
    size = f'x="{left}" y="{top}" width="{CELL}" height="{CELL}"'
    frame = f'<rect {size} fill="none" stroke="#36c" stroke-width="2"/>' if is_drawn else ""
    style = 'style="image-rendering:pixelated"'
    return f'<image {size} {style} href="data:image/png;base64,{data}"/>{frame}'


def block(task: str, name: str, top: int) -> Iterator[str]:
    """Draw a task's first validation samples in one call, and lay them out in a row."""
    run = find_run(name)
    world = open_world(run.config.data.world)
    world.prepare()
    samples = [world.sample(task, "val", index) for index in range(COUNT)]
    given = [
        [
            (role, Image.fromarray(world.image(row).transpose(1, 2, 0)))
            for role, row in zip(sample.roles, sample.images, strict=True)
        ]
        for sample in samples
    ]
    pipeline = QueryKontextPipeline.from_run(run)
    drawn = pipeline([sample.prompt for sample in samples], images=given, seed=0)
    title = f"{task.replace('_', '-')}, {run.config.data.world.name}"
    yield f'<text x="4" y="{top + 14}" font-weight="bold">{escape(title)}</text>'
    for place, (sample, inputs, output) in enumerate(zip(samples, given, drawn, strict=True)):
        left = 4 + place * WIDTH // COUNT
        for number, image in enumerate([*(image for _, image in inputs), output]):
            at = left + number * (CELL + 6)
            yield picture(image, at, top + 20, is_drawn=number == len(inputs))
        for line, words in enumerate(textwrap.wrap(sample.prompt, LETTERS)[:4]):
            y = top + 32 + CELL + line * LINE
            yield f'<text x="{left}" y="{y}" font-size="8.5">{escape(words)}</text>'


def main(target: str, *words: str) -> None:
    """Draw all tasks and write the picture."""
    rows, top = [], 0
    for word in words:
        task, _, run = word.partition("=")
        rows += block(task, run, top)
        top += CELL + 76
    text = "\n".join([HEADER.format(w=WIDTH, h=top), *rows, "</svg>\n"])
    Path(target).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
