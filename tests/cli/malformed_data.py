"""Wrong jsonl files and the pictures they name."""

from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
from malformed_case import Case
from PIL import Image

LINE = {"prompt": "red", "target": "0.png"}
SOURCE = [{"path": "0.png", "role": "source"}]


def picture(root: Path) -> None:
    """Draw the picture that right lines name."""
    Image.new("RGB", (40, 30), "red").save(root / "0.png")


def encoded(kind: str) -> bytes:
    """A noisy picture as the bytes of a file."""
    noise = np.random.default_rng(0).integers(0, 255, (60, 60, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, format=kind)
    return buffer.getvalue()


def deep() -> bytes:
    """A picture of 16 bits."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8), 40000, np.uint16)).save(buffer, format="PNG")
    return buffer.getvalue()


def huge() -> bytes:
    """A PNG whose header promises 60,000 x 60,000 pixels."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def lines(name: str, *entries: object, says: tuple[str, ...]) -> Case:
    """A wrong line, in a file that is looked at."""
    text = "".join(f"{e if isinstance(e, str) else json.dumps(e)}\n" for e in entries)
    return Case(name, "data show ROOT/mine.jsonl", says, {"mine.jsonl": text}, picture)


def image(name: str, content: bytes, *says: str, suffix: str = "png") -> Case:
    """A right line that names a broken picture, in a world to train on."""
    file = f"bad.{suffix}"
    text = f"{json.dumps(LINE)}\n{json.dumps({**LINE, 'target': file})}\n"
    words = ("fit", "tiny/stage1", "data.world={name: jsonl, path: ROOT/mine.jsonl}")
    words += ("data.tasks={text_to_image: 1, reconstruction: 0}",)
    return Case(
        name, words, ("mine.jsonl:2", file, *says), {file: content, "mine.jsonl": text}, picture
    )


def world(name: str, *words: str, says: tuple[str, ...]) -> Case:
    """Wrong options of a world that the package brings."""
    return Case(name, ("data", "show", *words), says)


LINES = [
    lines("not JSON", LINE, "{broken", says=("mine.jsonl:2", "JSON", '"prompt": "a red cat"')),
    lines("brackets without end", "[" * 100_000, says=("mine.jsonl:1", "JSON")),
    lines("a list for a line", "[1, 2]", says=("mine.jsonl:1", "a JSON object")),
    lines("no prompt", {"target": "0.png"}, says=("mine.jsonl:1: prompt", 'write "prompt"')),
    lines("no target", {"prompt": "x"}, says=("mine.jsonl:1: target", "the path of the image")),
    lines("a number for a prompt", {**LINE, "prompt": 5}, says=("prompt = 5", "a str")),
    lines("a misspelt key", {**LINE, "promt": "x"}, says=("mine.jsonl:1: promt", "'prompt'")),
    lines("images of no list", {**LINE, "images": 5}, says=("mine.jsonl:1: images = 5", "a list")),
    lines("an unknown role", {**LINE, "images": [{"path": "0.png", "role": "sauce"}]},
          says=("mine.jsonl:1: images.role", "did you mean 'source'?")),
    lines("two sources", {**LINE, "images": SOURCE * 2}, says=("images.role", "one source")),
    lines("an edit of nothing", {**LINE, "task": "editing"}, says=("jsonl:1: task", '"images"')),
    lines("a task of a list", {**LINE, "task": ["editing"]}, says=("mine.jsonl:1: task", "known")),
    lines("an id twice", {**LINE, "id": "a"}, {**LINE, "id": "a"}, says=("jsonl:2: id", "rename")),
    lines("a picture outside that is not", {**LINE, "target": "../1.png"},
          says=("../1.png", "paths are relative")),
    lines("a picture in a text", {**LINE, "target": "data:image/png;base64," + "A" * 5000},
          says=("mine.jsonl:1: image", "paths are relative")),
    lines("an empty file", says=("mine.jsonl", "at least one line")),
    Case("a binary file for lines", "data show ROOT/mine.jsonl", ("mine.jsonl:1", "JSON"),
         {"mine.jsonl": b"\x89PNG\r\n\x1a\n\x00\xff\xfe"}),
    Case("a sheet over a picture", "data show ROOT/mine.jsonl --output ROOT/0.png",
         ("--output", "a new file", "name another"), {"mine.jsonl": json.dumps(LINE)}, picture),
    Case("a sheet over the list", "data show ROOT/mine.jsonl --output mine.jsonl",
         ("--output", "a new file", "name another"), {"mine.jsonl": json.dumps(LINE)}, picture),
    Case("a folder for a file", "data show ROOT/mine.jsonl", ("data.world.path", "not its folder"),
         {"mine.jsonl/0.txt": ""}),
]  # fmt: skip

PICTURES = [
    image("a cut PNG", encoded("PNG")[:3000], "save it again"),
    image("a cut JPEG", encoded("JPEG")[:2000], "save it again", suffix="jpg"),
    image("a cut WebP", encoded("WEBP")[:900], "save it again", suffix="webp"),
    image("no bytes", b"", "save it again"),
    image("text for a picture", b"this is no picture", "no picture", "save it again"),
    image("a picture of 16 bits", deep(), "8 bits", "save it again"),
    image("a picture too large", huge(), "exceeds limit", "save it again"),
]

WORLDS = [
    world("no such world", "avatar", says=("world", "did you mean 'avatars'?")),
    world("no such file", "gone.jsonl", says=("gone.jsonl", "give an absolute path")),
    world("no people", "avatars", "num_identities=0", says=("num_identities", "fix")),
    world("pictures of no size", "scenes", "size=0", says=("size", "fix")),
    world("a share above 1", "jsonl", "path=ROOT/mine.jsonl", "val_fraction=2",
          says=("val_fraction = 2.0", "for example 0.05")),
    world("pictures of two sizes", "mixture", "worlds.avatars.size=16", "worlds.scenes.size=32",
          says=("worlds.scenes.size", "set world.size and no size")),
]  # fmt: skip

CASES = [*LINES, *PICTURES, *WORLDS]
