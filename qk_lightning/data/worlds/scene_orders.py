"""Instructions of the scenes world: edits, references, copies; in several phrasings.

Each kind has phrasings for train and others that only val uses, of words that train uses too.
Not here: captions (scene_text.py).
"""

from __future__ import annotations

import numpy as np

from qk_lightning.data.worlds.scene_edits import Edit
from qk_lightning.data.worlds.scene_graph import Scene, SceneObject
from qk_lightning.data.worlds.scene_places import relation_between
from qk_lightning.data.worlds.scene_text import Telling, clause, counted, name, on_place, pick
from qk_lightning.data.worlds.scene_text import with_article as an

RECONSTRUCTION = (
    "the same picture.",
    "show the same picture again.",
    "repeat the image.",
    "an exact copy of this picture.",
    "keep everything as it is.",
)
HELD_OUT_RECONSTRUCTION = ("repeat this picture.", "the same image again.")
# {x}: an object by name; {y}: the other one; {new}: what it becomes or what is new, with article
# where it is a thing; {at}: where to.
INSTRUCTIONS = {
    "recolour": (
        "make the {x} {new}.",
        "change the {x} to {new}.",
        "the {x} should be {new}.",
        "the same picture, but the {x} is {new}.",
    ),
    "replace": (
        "replace the {x} with {new}.",
        "make the {x} {new}.",
        "change the {x} to {new}.",
        "put {new} in the place of the {x}.",
    ),
    "add": (
        "add {new} {at}.",
        "put {new} {at}.",
        "the same picture, but with {new} {at}.",
        "there should be {new} {at}.",
    ),
    "remove": (
        "remove the {x}.",
        "take the {x} away.",
        "the same picture without the {x}.",
        "there should be no {x}.",
    ),
    "move": (
        "move the {x} {to}.",
        "put the {x} {at}.",
        "the {x} should be {at}.",
        "the same picture, but the {x} is {at}.",
    ),
    "swap": (
        "swap the colours of the {x} and the {y}.",
        "the {x} and the {y} swap their colours.",
        "give the {x} the colour of the {y}, and the {y} the colour of the {x}.",
    ),
    "background": (
        "make the background {new}.",
        "change the background to {new}.",
        "the background should be {new}.",
        "the same picture on a {new} background.",
    ),
}
SHORT_SWAP = "swap the colours."  # where there are two objects
HELD_OUT_INSTRUCTIONS = {
    "recolour": ("change the colour of the {x} to {new}.", "give the {x} the colour {new}."),
    "replace": ("there should be {new} in the place of the {x}.",),
    "add": ("give the picture {new} {at}.", "{at} there should be {new}."),
    "remove": ("the picture should be without the {x}.", "take away the {x}."),
    "move": ("change the place of the {x}: {at}.", "take the {x} and put it {at}."),
    "swap": ("the {x} should be the colour of the {y}, and the {y} the colour of the {x}.",),
    "background": ("give the picture a {new} background.", "put the picture on {new}."),
}
CUSTOMISED = (
    "this object {at}, on a {background} background.",
    "on a {background} background: this object {at}.",
    "put this object {at}. the background is {background}.",
    "a new picture of this object {at}, {background} background.",
)
HELD_OUT_CUSTOMISED = (
    "a {background} picture with this object {at}.",
    "draw this object {at} on a plain {background} background.",
)
SUBJECTS = (
    "the first {relation} the second, on a {background} background.",
    "on a {background} background: the first object {relation} the second object.",
    "put the first object {relation} the second. the background is {background}.",
    "a new picture of both objects, the first {relation} the second, {background} background.",
)
HELD_OUT_SUBJECTS = (
    "a {background} picture with the first object {relation} the second.",
    "draw the first {relation} the second on a plain {background} background.",
)


def copy_order(scene: Scene, rng: np.random.Generator, *, held_out: bool = False) -> Telling:
    """Ask for the source as it is."""
    prompt = pick(HELD_OUT_RECONSTRUCTION if held_out else RECONSTRUCTION, rng)
    return Telling(prompt, counted(scene), [], False)


def edit_order(edit: Edit, rng: np.random.Generator, *, held_out: bool = False) -> Telling:
    """Ask for a change of a source.

    Args:
        edit: The change.
        rng: Draws the phrasing.
        held_out: Whether to use one that train never uses.

    Returns:
        The instruction; its clauses list all objects of the target, and what was removed is
        excluded.
    """
    frames = (HELD_OUT_INSTRUCTIONS if held_out else INSTRUCTIONS)[edit.op]
    words = {}
    for key, index in zip("xy", edit.objects, strict=False):
        words[key] = _unique_name(edit.source, edit.source.objects[index], rng)
    exclude = []
    if edit.op == "swap" and len(edit.source.objects) == 2 and not held_out:
        frames = (*frames, SHORT_SWAP)
    elif edit.op == "background":
        words["new"] = edit.target.background
    elif edit.op == "remove":
        exclude = [clause(edit.source.objects[edit.objects[0]])]
    elif edit.op == "add":
        added = edit.target.objects[-1]
        words |= {"new": an(name(added)), "at": on_place(added)}
    elif edit.op != "swap":
        after = edit.target.objects[edit.objects[0]]
        at = on_place(after)
        words |= {"at": at, "to": f"to {at.split(' ', 1)[1]}"}
        words["new"] = after.colour if edit.op == "recolour" else an(after.shape)
    return Telling(pick(frames, rng).format(**words), counted(edit.target), exclude, False)


def reference_order(scene: Scene, rng: np.random.Generator, *, held_out: bool = False) -> Telling:
    """Ask for one subject elsewhere."""
    frames = HELD_OUT_CUSTOMISED if held_out else CUSTOMISED
    (item,) = scene.objects
    prompt = pick(frames, rng).format(at=on_place(item), background=scene.background)
    return Telling(prompt, counted(scene), [], True)


def subjects_order(scene: Scene, rng: np.random.Generator, *, held_out: bool = False) -> Telling:
    """Ask for two subjects in a relation; the scene's first object is the first reference."""
    first, second = scene.objects
    relation = relation_between(first, second)
    assert relation is not None
    frames = HELD_OUT_SUBJECTS if held_out else SUBJECTS
    prompt = pick(frames, rng).format(relation=relation, background=scene.background)
    include = [clause(second), clause(first)]
    include[1]["position"] = [relation, 0]
    return Telling(prompt, include, [], True)


def _unique_name(scene: Scene, item: SceneObject, rng: np.random.Generator) -> str:
    """Name one object of a scene without doubt, by its shape alone where that is enough."""
    alone = sum(other.shape == item.shape for other in scene.objects) == 1
    return name(item, colour=not (alone and rng.random() < 0.5))
