"""One picture of many samples: a block a task, a column a prompt, a row a run.

Reads a run's `samples/final/`: `prompts.json` (a list of id, task, prompt and roles), `<id>.png`,
and where there are any `input<n>_<id>.png` and `target_<id>.png`.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qk_lightning.config.atomic import aside

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

FINAL = "final"
PROMPTS = "prompts.json"
MAX_INPUTS = 8
CELL, GAP, LABEL, FONT_SIZE = 96, 6, 150, 11
SPACE = 4  # between words
LINE = FONT_SIZE + 3
MAX_LINES = 24  # of a prompt: the longest that the worlds make is whole


@dataclass(frozen=True)
class _Block:
    """One task: its prompts and, by label, the folder and file prefix of each row."""

    task: str
    items: tuple[dict[str, Any], ...]
    rows: tuple[tuple[str, Path, str], ...]

    @property
    def height(self) -> int:
        """The pixels that the block takes."""
        return self.heading + len(self.rows) * (CELL + GAP)

    @property
    def heading(self) -> int:
        """The pixels above its first row: the task's name and the longest prompt."""
        lines = max(len(_wrap(item["prompt"], CELL)) for item in self.items)
        return (lines + 2) * LINE


def read_prompts(samples: Path) -> list[dict[str, Any]]:
    """Read what a run's samples show.

    Args:
        samples: the run's `samples/` folder.

    Returns:
        Dicts of id, task, prompt and roles of the input pictures; [] where the run has no pictures.
    """
    file = samples / FINAL / PROMPTS
    return list(json.loads(file.read_text())) if file.is_file() else []


def write_sample_grid(path: Path, samples: Mapping[str, Path]) -> bool:
    """Draw the samples of several runs side by side.

    Args:
        path: the PNG to write.
        samples: a run's `samples/` folder by label, in the order of the rows.

    Returns:
        False when no run has pictures, and nothing was written.
    """
    blocks = _blocks({label: folder / FINAL for label, folder in samples.items()})
    if not blocks:
        return False
    from PIL import Image

    width = LABEL + max(len(block.items) for block in blocks) * (CELL + GAP) + GAP
    canvas = Image.new("RGB", (width, sum(block.height for block in blocks) + GAP), "white")
    top = GAP
    for block in blocks:
        _draw_block(canvas, block, top)
        top += block.height
    with aside(path) as temporary:
        canvas.save(temporary)
    return True


def _blocks(folders: Mapping[str, Path]) -> list[_Block]:
    prompts = {label: read_prompts(folder.parent) for label, folder in folders.items()}
    items: dict[str, dict[str, Any]] = {}
    first: dict[str, Path] = {}
    for label, listed in prompts.items():
        for item in listed:
            items.setdefault(item["id"], item)
            first.setdefault(item["id"], folders[label])
    blocks = []
    for task in dict.fromkeys(item["task"] for item in items.values()):
        of_task = tuple(item for item in items.values() if item["task"] == task)
        given = first[of_task[0]["id"]]
        extra = [
            (label, given, f"{name}_")
            for name, label in (*_inputs(of_task), ("target", "target"))
            if any((given / f"{name}_{item['id']}.png").is_file() for item in of_task)
        ]
        rows = [(label, folder, "") for label, folder in folders.items()]
        blocks.append(_Block(task, of_task, (*extra, *rows)))
    return blocks


def _inputs(items: Sequence[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Name the rows of input pictures by file prefix and, where all share one, by role."""
    for number in range(MAX_INPUTS):
        roles = {tuple(item.get("roles", ())[number : number + 1]) for item in items}
        role = roles.pop() if len(roles) == 1 else ()
        yield f"input{number}", role[0] if role else f"input {number}"


def _draw_block(canvas: Picture, block: _Block, top: int) -> None:
    from PIL import ImageDraw

    draw, font = ImageDraw.Draw(canvas), _font(FONT_SIZE)
    draw.text((GAP, top), block.task, fill="black", font=_font(FONT_SIZE + 3))
    for column, item in enumerate(block.items):
        left = LABEL + column * (CELL + GAP)
        _draw_lines(draw, font, _wrap(item["prompt"], CELL), left, top + LINE * 3 // 2)
    top += block.heading
    for label, folder, prefix in block.rows:
        _draw_lines(draw, font, _wrap(label, LABEL - 2 * GAP), GAP, top + CELL // 3)
        for column, item in enumerate(block.items):
            picture = folder / f"{prefix}{item['id']}.png"
            left = LABEL + column * (CELL + GAP)
            if picture.is_file():
                canvas.paste(_cell(picture), (left, top))
            elif not prefix:
                draw.rectangle((left, top, left + CELL - 1, top + CELL - 1), outline="lightgray")
        top += CELL + GAP


def _draw_lines(draw: Any, font: Any, lines: Sequence[str], left: int, top: int) -> None:
    # Word by word: the font's own space is hardly seen at this size.
    for index, text in enumerate(lines):
        x = float(left)
        for word in text.split():
            draw.text((round(x), top + index * LINE), word, fill="black", font=font)
            x += font.getlength(word) + SPACE


def _wrap(text: str, width: int) -> list[str]:
    """Break a text into lines of at most `width` pixels, between words or after `.:=_,/-`."""
    lines: list[str] = []
    line = ""
    for piece in _pieces(text, width):
        if line and _length((line + piece).strip()) > width:
            lines.append(line.strip())
            line = ""
        line += piece
    lines += [line.strip()] if line.strip() else []
    return lines if len(lines) <= MAX_LINES else [*lines[: MAX_LINES - 1], "..."]


def _pieces(text: str, width: int) -> Iterator[str]:
    """Cut a text where a line may end, its words with the space behind them."""
    for word in text.split():
        parts = re.findall(r"[^.:=_,/-]*[.:=_,/-]?", word) if _length(word) > width else [word]
        for part in filter(None, parts):
            while _length(part) > width:  # nowhere to break
                fits = max(1, sum(_length(part[:end]) <= width for end in range(1, len(part))))
                yield part[:fits]
                part = part[fits:]
            yield part
        yield " "


def _length(text: str) -> float:
    """Return the pixels that a line takes as `_draw_lines` draws it."""
    words = text.split()
    own = sum(float(_font(FONT_SIZE).getlength(word)) for word in words)
    return own + SPACE * (len(words) - 1)


@functools.cache
def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _cell(path: Path) -> Picture:
    """Open a picture at the size of a cell, its pixels kept square where it is enlarged."""
    from PIL import Image

    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    grows = picture.width <= CELL
    resample = Image.Resampling.NEAREST if grows else Image.Resampling.LANCZOS
    return picture.resize((CELL, CELL), resample)
