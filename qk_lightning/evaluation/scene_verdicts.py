"""Holding a read scene against what was asked for: captions, copies, edits, subjects.

What is asked for is `Sample.facts` of the scenes world. Captions go by their clauses
(geneval.py), all else by the scene that should be there. Places are in picture sides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from qk_lightning.data.worlds.scene_graph import Scene, SceneObject
from qk_lightning.data.worlds.scene_places import MARGIN, THIRDS, place_of, size_word
from qk_lightning.evaluation.geneval import geneval_rule, mixed_up, named_share, strict
from qk_lightning.evaluation.scene_reading import Detection, SceneReading
from qk_lightning.evaluation.verdict import Verdict

Facts = Mapping[str, Any]
_NEAR = 0.5  # of an object's size: as far may it be from where it should stay


def caption_verdict(reading: SceneReading, facts: Facts) -> Verdict:
    """Judge a picture of a caption.

    Correct is the strict rule: every clause by its own objects, nothing else, and the background
    where the caption names it. Parts: "geneval_rule" (GenEval's lenient rule; it knows of no
    sizes and backgrounds), "count" (as many objects as were asked for, not counting marks on
    them), "shapes" and "colours" (the share of those named that are there, on whichever object),
    "background", and of color_attr "swapped" and "leaked".

    Args:
        reading: What was read.
        facts: "include", "exclude", "asks_background", "tag", "scene".
    """
    seen = [item.to_dict() for item in reading.objects]
    include, exclude = facts["include"], facts.get("exclude", ())
    judged = strict(seen, include, exclude)
    parts = {"geneval_rule": float(geneval_rule(seen, include, exclude)[0])}
    parts["count"] = float(len(seen) == sum(clause["count"] for clause in include))
    parts["shapes"] = named_share(seen, include, "class")
    if all("color" in clause for clause in include):
        parts["colours"] = named_share(seen, include, "color")
    reasons = [judged.reason] if judged.reason else []
    score, correct = judged.score, judged.correct
    if facts.get("asks_background"):
        checks = 1 + sum(clause["count"] for clause in include)
        right = not _background_problem(reading, facts["scene"]["background"], reasons)
        parts["background"] = float(right)
        score, correct = (score * checks + right) / (checks + 1), correct and right
    if facts.get("tag") == "color_attr":
        parts |= mixed_up(seen, include)
    return Verdict(correct, score, "\n".join(reasons), parts, seen)


def copy_verdict(reading: SceneReading, facts: Facts) -> Verdict:
    """Judge a picture that should show a whole scene.

    Correct: every object with its class, colour, size, mark and place, nothing else, and the
    background. The score is the share of those checks that hold. Parts: "count", "background".

    Args:
        reading: What was read.
        facts: "scene".
    """
    scene, seen = Scene.from_dict(facts["scene"]), reading.objects
    met = np.array([[_agreement(item, other) for other in seen] for item in scene.objects])
    met = met.reshape(len(scene.objects), len(seen))
    pairs = _pairs(met)
    checks = [_CHECKS + 2 * (item.mark is not None) for item in scene.objects]
    reasons = [
        f"expected {_name(item)}, found {_name(seen[pairs[row]]) if row in pairs else 'nothing'}"
        for row, item in enumerate(scene.objects)
        if row not in pairs or met[row, pairs[row]] < checks[row]
    ]
    count = _count_problem(seen, len(scene.objects), reasons)
    background = _background_problem(reading, scene.background, reasons)
    right = sum(float(met[pair]) for pair in pairs.items()) + (not count) + (not background)
    return Verdict(
        correct=not reasons,
        score=right / (sum(checks) + 2),
        reason="\n".join(reasons),
        parts={"count": float(not count), "background": float(not background)},
        detections=[item.to_dict() for item in seen],
    )


def edit_verdict(reading: SceneReading, facts: Facts) -> Verdict:
    """Judge an edited picture.

    Parts: "success" (what was changed is there and what it was is gone; what was added or moved
    may be anywhere in its ninth of the picture), "preserve" (all other objects kept their class,
    colour and place, and nothing came), "background" (its name is right), "joint" (all three).
    Correct is joint.

    Args:
        reading: What was read.
        facts: "scene", "source_scene", "edit" or "tag".
    """
    before, after = Scene.from_dict(facts["source_scene"]), Scene.from_dict(facts["scene"])
    op = facts.get("edit", {}).get("op", facts.get("tag"))
    kept = [item for item in after.objects if item in before.objects]
    new = [item for item in after.objects if item not in before.objects]
    gone = [item for item in before.objects if item not in after.objects]
    free = op in ("move", "add")
    seen, wanted = list(reading.objects), [*kept, *new]
    fits = np.array(
        [[_is(item, other, free and item in new) for other in seen] for item in wanted], dtype=bool
    ).reshape(len(wanted), len(seen))
    pairs = {row: column for row, column in _pairs(fits).items() if fits[row, column]}
    rest = [other for number, other in enumerate(seen) if number not in pairs.values()]
    # What is left over where something was changed is a change that failed.
    failed = [other for other in rest if any(_near(item, other, 1.0) for item in [*gone, *new])]
    reasons = [
        f"expected {_name(item)}, {'kept' if number < len(kept) else 'new'}: not found"
        for number, item in enumerate(wanted)
        if number not in pairs
    ]
    found = [number in pairs for number in range(len(wanted))]
    background = not _background_problem(reading, after.background, reasons)
    reasons += [f"found {other.colour} {other.shape}, not asked for" for other in rest]
    success = all(found[len(kept) :]) and not failed and (op != "background" or background)
    preserve = all(found[: len(kept)]) and len(failed) == len(rest)
    parts = {"success": success, "preserve": preserve, "background": background}
    joint = all(parts.values())
    return Verdict(
        correct=joint,
        score=sum(parts.values()) / len(parts),
        reason="\n".join(reasons),
        parts={name: float(value) for name, value in (parts | {"joint": joint}).items()},
        detections=[item.to_dict() for item in seen],
    )


def subject_verdict(reading: SceneReading, facts: Facts, ranks: Sequence[Sequence[int]]) -> Verdict:
    """Judge a picture of one or two known subjects.

    Parts: "rank1" (share of the subjects that their drawing is told as, out of a gallery), "mrr"
    (mean of 1 / rank; 0 where a subject is missing), "relation" (they lie as asked: to each
    other, or the one in its ninth of the picture), "background", "count", and of two subjects
    "swapped" (each is where the other should be). Correct: all but "swapped".

    Args:
        reading: What was read.
        facts: "scene", and "include" with the relation of two subjects.
        ranks: The rank of each of the scene's objects at each detection.
    """
    scene, seen = Scene.from_dict(facts["scene"]), reading.objects
    table = np.array(ranks, dtype=float).reshape(len(scene.objects), len(seen))
    best = _pairs(1 / table)
    found = [table[row, best[row]] if row in best else np.inf for row in range(len(table))]
    reasons = [
        f"expected {_name(item)}, {'not found' if row not in best else f'rank {found[row]:.0f}'}"
        for row, item in enumerate(scene.objects)
        if found[row] != 1
    ]
    lies = len(best) == len(scene.objects)
    places = [seen[best[row]] for row in range(len(scene.objects))] if lies else []
    parts = {
        "rank1": float(np.mean([rank == 1 for rank in found])),
        "mrr": float(np.mean([1 / rank for rank in found])),
        "relation": float(lies and _lie_as_asked(scene, places, facts)),
    }
    if not parts["relation"]:
        reasons.append("not where they should be")
    parts["count"] = float(not _count_problem(seen, len(scene.objects), reasons))
    parts["background"] = float(not _background_problem(reading, scene.background, reasons))
    score = np.mean([parts[name] for name in ("rank1", "relation", "count", "background")])
    if len(scene.objects) == 2:
        swapped = lies and parts["rank1"] == 1 and _lie_as_asked(scene, places[::-1], facts)
        parts["swapped"] = float(swapped)
    seen_values = [item.to_dict() for item in seen]
    return Verdict(not reasons, float(score), "\n".join(reasons), parts, seen_values)


_CHECKS = 4  # class, colour, size, place


def _agreement(item: SceneObject, other: Detection) -> int:
    """How many of an object's properties a detection has; none where the place is another's."""
    if not _near(item, other, 2.0):
        return 0
    met = (item.shape == other.shape) + (item.colour == other.colour)
    met += (size_word(item.size) == size_word(other.size)) + _near(item, other, _NEAR)
    if item.mark is not None:
        met += (item.mark == other.mark) + (item.mark_colour == other.mark_colour)
    elif other.mark is not None:
        met -= 1
    return met


def _is(item: SceneObject, other: Detection, free: bool) -> bool:
    alike = item.shape == other.shape and item.colour == other.colour and other.mark == item.mark
    return alike and (_in_place(item, other) if free else _near(item, other, _NEAR))


def _near(item: SceneObject, other: Detection, share: float) -> bool:
    return bool(np.hypot(item.x - other.x, item.y - other.y) <= share * item.size)


def _in_place(item: SceneObject, other: Detection) -> bool:
    """Whether a detection is in an object's ninth of the picture; the borders are wide."""
    low, high = (-np.inf, *THIRDS), (*THIRDS, np.inf)
    return all(
        low[index] - MARGIN <= value <= high[index] + MARGIN
        for index, value in zip(place_of(item.x, item.y), (other.x, other.y), strict=True)
    )


def _lie_as_asked(scene: Scene, places: Sequence[Detection], facts: Facts) -> bool:
    if len(scene.objects) == 1:
        return _in_place(scene.objects[0], places[0])
    relations = [clause["position"] for clause in facts["include"] if "position" in clause]
    boxes = [{"class": str(number), "box": item.box} for number, item in enumerate(places)]
    include = [{"class": "1", "count": 1}]
    include += [{"class": "0", "count": 1, "position": [name, 0]} for name, _ in relations]
    return geneval_rule(boxes, include)[0]


def _background_problem(reading: SceneReading, wanted: str, reasons: list[str]) -> bool:
    if reading.background == wanted:
        return False
    reasons.append(f"expected {wanted} background, found {reading.background}")
    return True


def _count_problem(seen: Sequence[Detection], wanted: int, reasons: list[str]) -> bool:
    if len(seen) == wanted:
        return False
    reasons.append(f"expected {wanted} objects, found {len(seen)}")
    return True


def _name(item: SceneObject | Detection) -> str:
    words = f"{item.colour} {item.shape}"
    return f"{words} with {item.mark_colour} {item.mark}" if item.mark else words


def _pairs(gains: np.ndarray) -> dict[int, int]:
    """Give each row a column of its own such that the sum of the gains is greatest."""
    rows, columns = linear_sum_assignment(-gains.astype(float))
    return dict(zip(rows.tolist(), columns.tolist(), strict=True))
