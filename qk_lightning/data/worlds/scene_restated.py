"""What a caption asks for, always in the same words: a VLM's answer to a bare prompt.

Not here: captions (scene_text.py), questions (scene_questions.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from qk_lightning.data.worlds.scene_asks import COUNTS
from qk_lightning.data.worlds.scene_graph import Scene
from qk_lightning.data.worlds.scene_places import place_of
from qk_lightning.data.worlds.scene_text import (
    CAPTIONS,
    full_name,
    in_order,
    name,
    plural,
    with_article,
)

_PLACE = re.compile(r"\b(at|on) the (top|bottom|left|right|centre)\b")


def restate(prompt: str, scene: Scene, facts: Mapping[str, Any]) -> str:
    """Say what a prompt asks for, and no more, in the words of `description`.

    Args:
        prompt: Of a text-to-image sample.
        scene: One that fits it.
        facts: Of the sample.

    Returns:
        Such as "on a navy background: a red circle, two squares."; for a prompt that says all,
        the scene's description.
    """
    include = facts["include"]
    related = next((clause for clause in include if "position" in clause), None)
    if related:
        relation, other = related["position"]
        first, second = (with_article(c["class"]) for c in (related, include[other]))
        return f"{first} {relation} {second}."
    colour = all("color" in clause for clause in include)
    size = bool(re.search(r"\b(big|small)\b", prompt))
    if _PLACE.search(prompt):
        items = in_order(scene)
        said = [full_name(i) if size else with_article(name(i, colour=colour)) for i in items]
        places = [place_of(i.x, i.y).name for i in items]
        things = [f"{what} at the {where}" for what, where in zip(said, places, strict=True)]
    else:
        things = _counted([name(i, colour=colour, size=size) for i in scene.objects])
    text = ", ".join(things)
    if facts["asks_background"]:
        return CAPTIONS[0].format(background=scene.background, things=text)
    return f"{text}."


def _counted(names: list[str]) -> list[str]:
    return [
        with_article(what)
        if names.count(what) == 1
        else f"{COUNTS[names.count(what)]} {plural(what)}"
        for what in dict.fromkeys(names)
    ]
