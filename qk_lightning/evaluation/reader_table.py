"""How well the readers read, before any head is scored by them: the tables of docs/evaluation.md.

`qk evaluate readers` computes them from the worlds' own pictures: clean, with noise, blurred and
through the codec; then every suite's controls; then the mutation matrix.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from qk_lightning.config.atomic import write_text
from qk_lightning.config.paths import list_suites
from qk_lightning.data.sample import World
from qk_lightning.data.worlds.avatars import Avatars
from qk_lightning.data.worlds.scene_graph import Scene
from qk_lightning.data.worlds.scenes import Scenes
from qk_lightning.evaluation.aggregate import summarise_rows
from qk_lightning.evaluation.controls import control_levels, reconstruct
from qk_lightning.evaluation.levels import MEANINGS, NAMES
from qk_lightning.evaluation.markdown_table import to_markdown
from qk_lightning.evaluation.mutations import MUTATIONS, blurred, mutate, noisy
from qk_lightning.evaluation.prompt_set import PromptSet, make_prompt_set
from qk_lightning.evaluation.score import score_pictures
from qk_lightning.evaluation.suite import open_suite
from qk_lightning.evaluation.table import number
from qk_lightning.parts.base import Part

BEGIN, END = "<!-- readers: begin -->", "<!-- readers: end -->"
NOISE, BLURS = (0.03, 0.08), (0.7, 1.2)
Images = Mapping[str, np.ndarray]


def reader_table(count: int, codec: Part | None) -> str:
    """Measure the readers.

    Args:
        count: items of each world and task.
        codec: the autoencoder, for reconstructions; None leaves them out.

    Returns:
        Markdown.
    """
    worlds: dict[str, World] = {
        "scenes 32 px": Scenes(size=32),
        "scenes 64 px": Scenes(size=64),
        "avatars 32 px": Avatars(),
    }
    for world in worlds.values():
        world.prepare()
    blocks = [
        f"Measured on {count} val items of each task, by `qk evaluate readers`.",
        "### Readers on pictures that are right",
        _degraded(worlds, count, codec),
        "### Controls",
        *_controls({"avatars": worlds["avatars 32 px"], "scenes": worlds["scenes 32 px"]},
                   count, codec),
        "### Mutation matrix",
        *_matrices(worlds, count),
    ]  # fmt: skip
    return "\n\n".join(blocks)


def _degraded(worlds: Mapping[str, World], count: int, codec: Part | None) -> str:
    changes = _changes(codec)
    lines = [["pictures", "score", *changes, "CPU ms a picture"]]
    for label, world in worlds.items():
        kind = type(world).__name__.lower()
        prompts = make_prompt_set(open_suite(kind), {kind: world}, count, 0, ["text_to_image"])
        clean = {item.id: world.image(item.target) for item in prompts.items}
        _values(prompts, world, clean)  # a reader draws what it compares with once
        found: dict[str, Mapping[str, float]] = {}
        seconds = 0.0
        for name, change in changes.items():
            images = change(clean)
            started = time.process_time()
            found[name] = _values(prompts, world, images)
            seconds += time.process_time() - started
        spent = 1000 * seconds / len(clean) / len(found)
        for metric in ("overall", "geneval_rule", "attributes", "all_right"):
            if metric in found["clean"]:
                cells = [number(found.get(name, {}).get(metric)) for name in changes]
                lines.append([label, metric, *cells, f"{spent:.1f}"])
    return to_markdown(lines)


def _changes(codec: Part | None) -> dict[str, Callable[[Images], Images]]:
    def each(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Images], Images]:
        """Apply a change to every picture."""
        return lambda images: {name: change(image) for name, image in images.items()}

    rng = np.random.default_rng(0)
    found = {"clean": each(lambda image: image)}
    for sigma in NOISE:
        found[f"noise {sigma}"] = each(lambda image, s=sigma: noisy(image, s, rng))
    for sigma in BLURS:
        found[f"blur {sigma} px"] = each(lambda image, s=sigma: blurred(image, s))
    if codec is not None:
        found["codec"] = lambda images: reconstruct(images, codec)
    return found


def _values(prompts: PromptSet, world: World, images: Images) -> dict[str, float]:
    worlds = dict.fromkeys(prompts.worlds, world)
    rows = score_pictures(prompts.suite, worlds, prompts.items, images)
    found = summarise_rows(rows, prompts.suite.metrics(prompts.items), with_interval=False)
    return {name: value.value for name, value in found.items()}


def _controls(worlds: Mapping[str, World], count: int, codec: Part | None) -> list[str]:
    blocks = ["; ".join(f"*{NAMES[name]}*: {MEANINGS[name]}" for name in NAMES
                        if name != "own_shuffled") + "."]  # fmt: skip
    for name in list_suites():
        prompts = make_prompt_set(open_suite(name), worlds, count)
        levels = control_levels(prompts, worlds, codec)
        controls = [control for control in NAMES if control in levels]
        metrics = dict.fromkeys(metric for of in levels.values() for metric in of)
        lines = [[f"{name} ({len(prompts.items)} items)", *(NAMES[one] for one in controls)]]
        for metric in metrics:
            lines.append([metric, *(number(levels[one].get(metric)) for one in controls)])
        blocks.append(to_markdown(lines))
    return blocks


def _matrices(worlds: Mapping[str, World], count: int) -> list[str]:
    blocks = [
        "Share of scenes still called right (strict: nothing else may be there) after one change; "
        "`-` where the change is not possible."
    ]
    for label, world in worlds.items():
        if not isinstance(world, Scenes):
            continue
        prompts = make_prompt_set(open_suite("scenes"), {"scenes": world}, count)
        tags = list(dict.fromkeys(item.tag for item in prompts.items))
        lines = [[label, *tags]]
        for name in MUTATIONS:
            lines.append([name, *_share_right(prompts, world, name, tags)])
        blocks.append(to_markdown(lines))
    return blocks


def _share_right(prompts: PromptSet, world: Scenes, name: str, tags: Sequence[str]) -> list[str]:
    images = {}
    for item in prompts.items:
        scene = Scene.from_dict(item.facts["scene"])
        image = mutate(name, scene, world.shapes, world.size)
        if image is not None:
            images[item.id] = image
    here = [item for item in prompts.items if item.id in images]
    rows = score_pictures(prompts.suite, {"scenes": world}, here, images)
    right = {tag: [row["verdict"] for row in rows if row["tag"] == tag] for tag in tags}
    return [f"{np.mean(values):.2f}" if values else "-" for values in right.values()]


def write_between_markers(path: Path, text: str) -> None:
    """Put a text between the markers of a file; a file without them gets both at its end.

    Args:
        path: the Markdown file.
        text: what goes there.
    """
    old = path.read_text(encoding="utf-8") if path.is_file() else ""
    if BEGIN not in old:
        old = f"{old.rstrip()}\n\n{BEGIN}\n{END}\n".lstrip()
    before, _, rest = old.partition(BEGIN)
    write_text(path, f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.partition(END)[2]}")
