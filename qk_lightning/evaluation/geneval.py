"""Holding detections against what was asked for: GenEval's rule, and a strict one. No pixels.

A detection is a dictionary with "class", "colour" and "box" (x1, y1, x2, y2); the surest come
first. Clauses have GenEval's schema: {"class", "count"[, "color"][, "position": [relation, index
of an earlier clause]]}, and here also "size": "small" or "big". What is scored so is GenEval's
rule on pictures of shapes; it is not GenEval.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np

from qk_lightning.data.worlds.scene_graph import COLOURS
from qk_lightning.data.worlds.scene_places import size_word

POSITION_THRESHOLD = 0.1  # of the two boxes' sides
_MOST_OBJECTS = 7  # that are matched; more can only be wrong
Detection = Mapping[str, Any]
Clause = Mapping[str, Any]


@dataclass(frozen=True)
class Judgement:
    """What a rule says.

    Args:
        correct: Whether everything asked for is there (and, strictly, nothing else).
        score: Share of what is checked that holds.
        reason: What does not, in GenEval's words.
    """

    correct: bool
    score: float
    reason: str


def relative_position(a: Detection, b: Detection) -> set[str]:
    """Say where A lies from B: up to two of RELATIONS.

    The offset of the centres less a tenth of both sides, axis by axis, over the length of the
    whole offset; a relation holds where that is over 0.5.

    Args:
        a: With "box".
        b: With "box".

    Source:
        Ghosh et al., GenEval, 2023; evaluation/evaluate_images.py of djghosh13/geneval.
    """
    boxes = np.array([a["box"], b["box"]], dtype=float)[:, :4].reshape(2, 2, 2)
    offset = np.subtract(*boxes.mean(axis=1))
    sides = abs(np.diff(boxes, axis=1))[:, 0].sum(axis=0)
    revised = np.maximum(abs(offset) - POSITION_THRESHOLD * sides, 0) * np.sign(offset)
    if (abs(revised) < 1e-3).all():
        return set()
    right, down = revised / np.linalg.norm(offset)
    shares = {"left of": -right, "right of": right, "above": -down, "below": down}
    return {relation for relation, share in shares.items() if share > 0.5}


def geneval_rule(
    detections: Sequence[Detection], include: Sequence[Clause], exclude: Sequence[Clause] = ()
) -> tuple[bool, str]:
    """Judge as GenEval does: extra objects are allowed and one object may serve several clauses.

    Args:
        detections: The surest first.
        include: Clauses that must be met.
        exclude: Clauses whose "count" must not be reached.

    Returns:
        Whether all is met, and GenEval's reason.
    """
    reasons: list[str] = []
    groups: list[Sequence[Detection] | None] = []
    for clause in include:
        name, count = clause["class"], clause["count"]
        found = _of_class(detections, name)[:count]
        problem = None
        if len(found) < count:
            problem = f"expected {name}>={count}, found {len(found)}"
        elif "color" in clause:
            problem = _wrong_colour(clause, found)
        if problem is None and "position" in clause:
            relation, other = clause["position"]
            problem = _wrong_position(name, relation, found, groups[other])
        reasons += [problem] if problem else []
        groups.append(None if problem else found)
    for clause in exclude:
        found = _of_class(detections, clause["class"])
        if len(found) >= clause["count"]:
            reasons.append(f"expected {clause['class']}<{clause['count']}, found {len(found)}")
    return not reasons, "\n".join(reasons)


def _of_class(detections: Sequence[Detection], name: str) -> list[Detection]:
    return [item for item in detections if item["class"] == name]


def _wrong_colour(clause: Clause, found: Sequence[Detection]) -> str | None:
    colours = [item["colour"] for item in found]
    wanted, count = clause["color"], clause["count"]
    if colours.count(wanted) >= count:
        return None
    seen = ", ".join(f"{colours.count(c)} {c}" for c in COLOURS if c in colours)
    return (
        f"expected {wanted} {clause['class']}>={count}, "
        f"found {colours.count(wanted)} {wanted}; and {seen}"
    )


def _wrong_position(
    name: str, relation: str, found: Sequence[Detection], others: Sequence[Detection] | None
) -> str | None:
    if others is None:
        return f"no target for {name} to be {relation}"
    for item in found:
        for other in others:
            if relation not in (true := relative_position(item, other)):
                found_at = " and ".join(sorted(true))
                return f"expected {name} {relation} target, found {found_at} target"
    return None


def strict(
    detections: Sequence[Detection], include: Sequence[Clause], exclude: Sequence[Clause] = ()
) -> Judgement:
    """Judge exactly: each object serves one clause, and there is no other object.

    Every clause of count n asks for n objects of its class (colour, size, position). Over all
    ways to give each its own detection, the best one counts.

    Args:
        detections: All that was seen, unknown shapes too; a "mark" on one is another object.
        include: Clauses that must be met, each by its own objects.
        exclude: Clauses whose "count" must not be reached.
    """
    slots = [number for number, clause in enumerate(include) for _ in range(clause["count"])]
    there = sum(1 + bool(item.get("mark")) for item in detections)
    count_right = there == len(slots)
    met, total = _best_match(detections[:_MOST_OBJECTS], include, slots)
    lenient, reason = geneval_rule(detections, include, exclude)
    correct = count_right and met == total
    if not correct and not count_right:
        extra = f"expected {len(slots)} objects, found {there}"
        reason = f"{reason}\n{extra}" if reason else extra
    elif not correct and lenient:
        reason = "no way to give every clause objects of its own"
    return Judgement(correct, (met + count_right) / (total + 1), "" if correct else reason)


def _best_match(
    detections: Sequence[Detection], include: Sequence[Clause], slots: Sequence[int]
) -> tuple[int, int]:
    """Return the most checks that some assignment meets, and how many checks there are."""
    own = np.array([[_checks(item, include[slot]) for item in detections] for slot in slots])
    relations = [
        (mine, other, include[slot]["position"][0])
        for mine, slot in enumerate(slots)
        if "position" in include[slot]
        for other, target in enumerate(slots)
        if target == include[slot]["position"][1]
    ]
    total = sum(_num_checks(include[slot]) for slot in slots) + len(relations)
    choices = [*range(len(detections)), *[None] * max(len(slots) - len(detections), 0)]
    lies = {
        (a, b): relative_position(detections[a], detections[b])
        for a, b in (permutations(range(len(detections)), 2) if relations else ())
    }
    best = 0
    for chosen in permutations(choices, len(slots)):
        met = sum(own[slot][item] for slot, item in enumerate(chosen) if item is not None)
        for mine, other, relation in relations:
            met += relation in lies.get((chosen[mine], chosen[other]), ())
        best = max(best, int(met))
    return best, total


def _num_checks(clause: Clause) -> int:
    return 1 + ("color" in clause) + ("size" in clause)


def _checks(item: Detection, clause: Clause) -> int:
    """How much of a clause a detection meets; nothing counts where the class is wrong."""
    if item["class"] != clause["class"]:
        return 0
    met = 1 + ("color" in clause and item["colour"] == clause["color"])
    return met + ("size" in clause and size_word(item["size"]) == clause["size"])


def named_share(detections: Sequence[Detection], include: Sequence[Clause], key: str) -> float:
    """Give the share of the classes, or of the colours, asked for that are there at all.

    Which object has which does not count, so this tells recognition from binding. Objects beyond
    those asked for lower it: the share is of the larger of the two numbers.

    Args:
        detections: with class and colour.
        include: the clauses.
        key: `class` or `color`.
    """
    wanted: Counter[str] = Counter()
    for clause in include:
        if key in clause:
            wanted[clause[key]] += clause["count"]
    found = Counter(item["colour" if key == "color" else key] for item in detections)
    return (wanted & found).total() / max(wanted.total(), len(detections), 1)


def mixed_up(detections: Sequence[Detection], include: Sequence[Clause]) -> dict[str, float]:
    """Tell how the colours of two objects went wrong.

    Args:
        detections: What was seen.
        include: Two clauses of different classes with a colour each.

    Returns:
        "swapped": both objects are there with each other's colour; "leaked": both are there in
        the same colour of the two. 1 or 0.
    """
    (a, b), pairs = include, {(item["class"], item["colour"]) for item in detections}
    wanted = (a["color"], b["color"])
    swapped = {(a["class"], wanted[1]), (b["class"], wanted[0])} <= pairs
    leaked = any({(a["class"], colour), (b["class"], colour)} <= pairs for colour in wanted)
    return {"swapped": float(swapped), "leaked": float(leaked)}
