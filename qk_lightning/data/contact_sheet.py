"""One labelled picture of what a world teaches: a block for each task (and world of a mixture).

A sample is drawn as its input images with their roles, an arrow, the target, and the prompt
beneath, wrapped.
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import TYPE_CHECKING

from qk_lightning.config.atomic import aside
from qk_lightning.data.collate import spread
from qk_lightning.data.sample import Sample, Split, World

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

MIN_SIDE = 96  # pixels of a drawn image
GAP = 12
LABEL_SIZE, TITLE_SIZE = 13, 18
LINE = LABEL_SIZE + 4
MAX_LABEL = 1000  # characters of a prompt
INK, FAINT, PAPER, FRAME = "#1b1b1b", "#6a6a6a", "#ffffff", "#c8c8c8"


def contact_sheet(world: World, path: Path, per_task: int = 4, split: Split = "train") -> Path:
    """Draws some samples of every task of a world.

    Args:
        world: What to show; call its `prepare` first where images are costly.
        path: The PNG to write.
        per_task: Samples of each task and world (fewer if it has fewer).
        split: "train" or "val".

    Returns:
        The path.
    """
    blocks = []
    for task, part in itertools.product(world.tasks, world.parts()):
        chosen = sum(spread(part.world, task, split, per_task), [])
        samples = [part.world.sample(task, split, index) for index in chosen]
        if samples:
            name = f"{task}, {part.label}" if part.label else task
            title = f"{name}   ({part.world.num_samples(task, split):,} samples, {split})"
            blocks.append(_stack([_text(title, TITLE_SIZE), _row(part.world, samples)]))
    sheet = _stack(blocks, gap=2 * GAP, margin=2 * GAP)
    with aside(Path(path)) as temporary:
        sheet.save(temporary, format="PNG")
    return Path(path)


def _row(world: World, samples: list[Sample]) -> Image.Image:
    """The samples of one task side by side, tops aligned."""
    from PIL import Image

    cells = [_cell(world, sample) for sample in samples]
    width = sum(cell.width for cell in cells) + 3 * GAP * (len(cells) - 1)
    row = Image.new("RGB", (width, max(cell.height for cell in cells)), PAPER)
    left = 0
    for cell in cells:
        row.paste(cell, (left, 0))
        left += cell.width + 3 * GAP
    return row


def _cell(world: World, sample: Sample) -> Image.Image:
    """One sample: labels, images, arrow, target, prompt."""
    from PIL import Image, ImageDraw, ImageOps

    scale = math.ceil(MIN_SIDE / world.size)
    side = world.size * scale
    labels, rows = [*sample.roles, "target"], [*sample.images, sample.target]
    width = max(len(rows) * (side + GAP) - GAP + (2 * GAP if sample.roles else 0), 180)
    lines = _wrapped(sample.prompt or "(empty prompt)", width)
    height = LINE + side + 4 + LINE * len(lines)
    cell = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(cell)
    left = 0
    for label, row in zip(labels, rows, strict=True):
        if label == "target" and sample.roles:
            _arrow(draw, left, LINE + side // 2)
            left += 2 * GAP
        image = Image.fromarray(world.image(row).transpose(1, 2, 0))
        image = image.resize((side, side), Image.Resampling.NEAREST)
        cell.paste(ImageOps.expand(ImageOps.crop(image, 1), 1, FRAME), (left, LINE))
        draw.text((left, 0), label, INK if label == "target" else FAINT, _font(LABEL_SIZE))
        left += side + GAP
    for number, line in enumerate(lines):
        draw.text((0, LINE + side + 4 + LINE * number), line, INK, _font(LABEL_SIZE))
    return cell


def _arrow(draw: ImageDraw.ImageDraw, left: int, middle: int) -> None:
    tip = left + GAP
    draw.line([(left - GAP // 2, middle), (tip, middle)], FAINT, 2)
    draw.polygon([(tip, middle - 5), (tip, middle + 5), (tip + 6, middle)], FAINT)


def _wrapped(text: str, width: int) -> list[str]:
    """Breaks a text into lines of at most `width` pixels; a longer word stands alone."""
    font, lines = _font(LABEL_SIZE), [""]
    if len(text) > MAX_LABEL:  # a whole book would take minutes, and a picture of as many lines
        text = f"{text[:MAX_LABEL]} ..."
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _text(text: str, size: int) -> Image.Image:
    from PIL import Image, ImageDraw

    font = _font(size)
    image = Image.new("RGB", (math.ceil(font.getlength(text)) + 1, size + 8), PAPER)
    ImageDraw.Draw(image).text((0, 0), text, INK, font)
    return image


def _stack(parts: list[Image.Image], gap: int = GAP // 2, margin: int = 0) -> Image.Image:
    """Pictures below one another, left-aligned."""
    from PIL import Image

    width = max((part.width for part in parts), default=1) + 2 * margin
    height = sum(part.height + gap for part in parts) - gap + 2 * margin
    sheet = Image.new("RGB", (width, max(height, 1)), PAPER)
    top = margin
    for part in parts:
        sheet.paste(part, (margin, top))
        top += part.height + gap
    return sheet


def _font(size: int) -> ImageFont.FreeTypeFont:
    from PIL import ImageFont

    return ImageFont.load_default(size)
