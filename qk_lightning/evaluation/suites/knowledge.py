"""Suite `knowledge`: does a prompt that names a colour, shape or count by a fact arrive in pixels?

"a circle in the colour of grass." beside "a green circle.": no caption of a picture says the
former, so a head can draw it only from what the VLM knows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import cycle
from typing import Any

import numpy as np

from qk_lightning.data.sample import World
from qk_lightning.data.worlds.scene_graph import COLOURS, SIZES, Scene, SceneObject
from qk_lightning.evaluation.item import SEEN, Item, Metric, Pictures
from qk_lightning.evaluation.suite import Count, Suite, choose, limit_of
from qk_lightning.evaluation.verdict import Verdict

FACT, DIRECT = "fact", "direct"
BACKGROUND = "grey"
PLACES = {  # centres of n objects, in picture sides
    1: ((0.5, 0.5),),
    2: ((0.27, 0.5), (0.73, 0.5)),
    3: ((0.27, 0.27), (0.73, 0.27), (0.5, 0.73)),
    4: ((0.27, 0.27), (0.73, 0.27), (0.27, 0.73), (0.73, 0.73)),
}
# As the reader knows the kinds of prompts.
READER_TAGS = {"colour": "colors", "shape": "colors", "count": "counting"}


class Knowledge(Suite):
    """Fact prompts, each with the same prompt said directly and the same noise.

    `overall` is the share right of the fact prompts, `direct` of the direct ones (mean over
    colours, shapes and counts), `gap` = direct - fact with an interval over pairs, `held_out` the
    share right of facts whose phrase was held out of captions even in words. `colours` and
    `direct_colours` are lenient: the share of prompts whose colour, named by a fact or directly,
    is there on whichever object, for heads that draw colours and no shapes yet.
    """

    name = "knowledge"
    parts = {"scenes": ("text_to_image",)}
    controls = ("gt", "recon", "shuffled", "blank")

    def items(
        self,
        worlds: Mapping[str, World],
        count: Count = None,
        seed: int = 0,
        tasks: Sequence[str] | None = None,
    ) -> list[Item]:
        """List pairs of prompts; with a `count`, as many of each topic."""
        from qk_lightning.data.worlds.scene_facts import knowledge_prompts

        found = []
        for kind, task in self.offers(worlds, tasks):
            prompts, limit = list(knowledge_prompts(worlds[kind])), limit_of(count, task)
            items = [_item(kind, given, n, seed, FACT) for n, given in enumerate(prompts)]
            for fact in choose(items, None if limit is None else max(1, limit // 2)):
                found += [fact, _item(kind, prompts[fact.index], fact.index, seed, DIRECT)]
        return found

    def target(self, world: World, item: Item) -> np.ndarray:
        """Draw a picture that would be right: the world has none of it."""
        from qk_lightning.data.worlds.scene_art import render

        return render(Scene.from_dict(item.facts["scene"]), world.size)

    def verdicts(self, world: World, pictures: Pictures) -> list[Verdict]:
        """Add what makes a topic's mean over all rows the difference of its two forms' means."""
        read = super().verdicts(world, pictures)
        signs = [2.0 if item.tag.startswith(DIRECT) else -2.0 for item in pictures.items]
        return [
            replace(verdict, parts={**verdict.parts, "gap": sign * verdict.correct})
            for verdict, sign in zip(read, signs, strict=True)
        ]

    def metrics(self, items: Sequence[Item]) -> list[Metric]:
        """List both forms, their gap, held-out phrases and each topic."""
        tags = list(dict.fromkeys(item.tag for item in items))
        facts = tuple(tag for tag in tags if tag.startswith(FACT))
        direct = tuple(tag for tag in tags if tag.startswith(DIRECT))
        found = [
            Metric("overall", "verdict", tags=facts, mean_of="tag"),
            Metric("direct", "verdict", tags=direct, mean_of="tag"),
            Metric("gap", "gap", mean_of="topic", is_share=False),
        ]
        if any(item.split != SEEN for item in items):
            found.append(Metric("held_out", "verdict", tags=facts, splits=("phrasing",)))
        for name, form in (("colours", FACT), ("direct_colours", DIRECT)):
            if (tag := f"{form}_colour") in tags:
                found.append(Metric(name, "colours", tags=(tag,)))
        return [*found, *(Metric(tag, "verdict", tags=(tag,)) for tag in tags)]


def _item(kind: str, given: Mapping[str, Any], index: int, seed: int, form: str) -> Item:
    topic, name = given["topic"], f"{kind}-knowledge-{index:05d}"
    is_new = bool(given["held_out"]) and form == FACT
    facts = {
        "tag": READER_TAGS[topic],
        "include": given["include"],
        "exclude": given["exclude"],
        "asks_background": False,
        "scene": _scene(given["include"][0], index).to_dict(),
        "held_out": {"phrasing": is_new},
        **{key: given[key] for key in ("topic", "word", "phrase")},
    }
    return Item(
        id=f"{name}-{form}",
        suite=Knowledge.name,
        world=kind,
        task="text_to_image",
        tag=f"{form}_{topic}",
        prompt=given["prompt"] if form == FACT else given["direct"],
        seed=seed,
        index=index,
        facts=facts,
        split="phrasing" if is_new else SEEN,
        group=name,
    )


def _scene(clause: Mapping[str, Any], index: int) -> Scene:
    """Place what a prompt asks for; colours that it leaves open take turns."""
    places = PLACES[clause["count"]]
    colours = cycle([*COLOURS][index % len(COLOURS) :] + [*COLOURS][: index % len(COLOURS)])
    size = SIZES["small"] if len(places) > 1 else SIZES["big"]
    objects = tuple(
        SceneObject(clause["class"], clause.get("color") or next(colours), x, y, size)
        for x, y in places
    )
    return Scene(objects, BACKGROUND)
