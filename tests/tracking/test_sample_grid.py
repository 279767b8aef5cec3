"""Grids of samples: whole prompts, input pictures by their roles."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from qk_lightning.tracking import sample_grid
from qk_lightning.tracking.sample_grid import write_sample_grid

LONG = " ".join(f"word{number}" for number in range(40))


def grid(folder: Path, monkeypatch, prompt: str, roles: list[str]) -> tuple[Image.Image, list[str]]:
    """Draw one sample's grid; return it with the lines that were written on it."""
    final = folder / "final"
    final.mkdir(parents=True)
    item = {"id": "a", "task": "editing", "prompt": prompt, "roles": roles}
    (final / "prompts.json").write_text(json.dumps([item]))
    for name in ("a", "target_a", *(f"input{number}_a" for number in range(len(roles)))):
        Image.new("RGB", (8, 8), "red").save(final / f"{name}.png")
    written: list[str] = []
    draw = sample_grid._draw_lines

    def note(canvas, font, lines, left, top) -> None:
        written.extend(lines)
        draw(canvas, font, lines, left, top)

    monkeypatch.setattr(sample_grid, "_draw_lines", note)
    assert write_sample_grid(folder / "grid.png", {"mine": folder})
    return Image.open(folder / "grid.png"), written


def test_a_long_prompt_is_whole_and_a_short_one_takes_no_room(tmp_path, monkeypatch):
    long, written = grid(tmp_path / "long", monkeypatch, LONG, [])
    assert " ".join(written).startswith(LONG)
    short, _ = grid(tmp_path / "short", monkeypatch, "a hat", [])
    assert short.height < long.height
    colours = {colour for _, colour in long.convert("RGB").getcolors(1 << 20)}
    assert (255, 0, 0) in colours


def test_input_pictures_are_called_by_their_roles(tmp_path, monkeypatch):
    _, written = grid(tmp_path, monkeypatch, "a hat", ["source", "reference"])
    assert written == ["a hat", "source", "reference", "target", "mine"]


@pytest.mark.parametrize(
    "text",
    [
        "connector=proj_enc, num_layers=12, hidden_size=1024_with_residual",
        "autoencoder.block_out_channels=[8,16,32,64]/data.world.val_fraction",
        "a" * 60,
        LONG,
    ],
)
def test_lines_fit_their_width_and_break_between_words_first(text: str) -> None:
    lines = sample_grid._wrap(text, 90)
    assert all(sample_grid._length(line) <= 90 for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    if "=" in text or " " in text:
        ends = (line[-1] for line in lines[:-1])
        assert all(end in ".:=_,/-" or end.isdigit() for end in ends)
