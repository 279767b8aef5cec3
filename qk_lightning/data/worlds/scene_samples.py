"""What a sample of the scenes world says and what is known of it, for exact scoring.

Not here: the words themselves (scene_text.py, scene_orders.py), addresses (scenes.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from qk_lightning.data.worlds import scene_orders, scene_text
from qk_lightning.data.worlds.scene_draw import TAGS
from qk_lightning.data.worlds.scene_edits import OPS
from qk_lightning.data.worlds.scene_graph import Scene
from qk_lightning.data.worlds.scene_items import BREAKS, SCENE, Items
from qk_lightning.data.worlds.scene_split import KINDS
from qk_lightning.data.worlds.scene_text import Telling

TOLD_PLAINLY = 0.7  # share of train captions that say no more than their tag asks
_ORDERS = {
    "reconstruction": scene_orders.copy_order,
    "customised": scene_orders.reference_order,
    "multi_subject": scene_orders.subjects_order,
}


def told(
    items: Items, task: str, item: int, kind: int, rng: np.random.Generator
) -> tuple[str, dict[str, Any]]:
    """Draw the words of a sample and note its facts.

    Args:
        items: Who is in every row.
        task: One of TASKS.
        item: The target's item.
        kind: The target's row within the item.
        rng: Draws the words.

    Returns:
        The prompt; its facts: `scene` (the target), `source_scene` and `edit` (for edits: the
        operation and the numbers of the source's objects it speaks of), `tag` (GenEval's task,
        the edit's operation, else the task), `include` and `exclude` (GenEval's schema, with
        "size"), `asks_background`, `held_out` (of each kind whether train never shows it).
    """
    scene = items.scene_of(item, kind)
    shown = items.held_out.violations(scene)
    facts: dict[str, Any] = {"scene": scene.to_dict(), "tag": task}
    if task == "text_to_image":
        unheard, telling = _caption(items, item, kind, scene, rng)
        facts["tag"] = items.tag_of(item) if kind == SCENE else _tag_by_number(scene)
    elif task in ("transformation", "editing"):
        unheard, edit = items.turn(item, len(OPS)) == 4, items.edit_of(item)
        telling = scene_orders.edit_order(edit, rng, held_out=unheard)
        facts["source_scene"] = edit.source.to_dict()
        facts["edit"] = {"op": edit.op, "objects": list(edit.objects)}
        facts["tag"] = edit.op
    else:
        unheard = items.turn(item, 1) == 4 and not shown
        telling = _ORDERS[task](scene, rng, held_out=unheard)
    facts |= {"include": telling.include, "exclude": telling.exclude}
    facts["asks_background"] = telling.asks_background
    facts["held_out"] = {name: name in shown for name in KINDS} | {"phrasing": unheard}
    return telling.prompt, facts


def _caption(
    items: Items, item: int, kind: int, scene: Scene, rng: np.random.Generator
) -> tuple[bool, Telling]:
    """Draw a caption; tell whether its phrasing is held out."""
    tag, turn = items.tag_of(item), items.turn(item, len(TAGS))
    if items.split_of(item) == "train":
        if kind == SCENE and rng.random() < TOLD_PLAINLY:
            return False, scene_text.tell(scene, tag, rng)
        return False, scene_text.tell_more(scene, rng)
    unheard = turn == 4 or (turn == 3 and tag not in BREAKS)
    return unheard, scene_text.tell(scene, tag, rng, held_out=unheard)


def _tag_by_number(scene: Scene) -> str:
    return ("colors", "color_attr", "three_object")[min(len(scene.objects), 3) - 1]
