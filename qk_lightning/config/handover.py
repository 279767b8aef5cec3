"""Parts that a stage takes over: how, and held against the parent's, what surely differs in shape.

Not here: shapes themselves, which only built parts know (`sweeps/preflight.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig

from qk_lightning.config.errors import Problem, did_you_mean

HANDOVER = ("load", "merge", "new")
MAY_BE_LEFT_OUT = ("objective", "autoencoder")
# Options that are sizes of tensors by family and part; a `*` stands for all parts of the family.
SIZES = {
    ("queries", "learnable"): ("num_queries",),
    ("queries", "random"): ("num_queries",),
    ("connector", "*"): ("num_layers",),
    ("head", "*"): ("num_layers", "num_single_layers"),
}


def from_parent_problems(
    values: Mapping[str, Any], taken: Mapping[str, Any], families: Sequence[str]
) -> Iterator[Problem]:
    """Find what is wrong with `from_parent:`.

    Args:
        values: the composed values of a stage.
        taken: what stands at `from_parent:`.
        families: the parts of its system.

    Yields:
        The problems.
    """
    if taken and not values.get("parent"):
        yield Problem("from_parent", taken, "a parent to load from", "set `parent:` as well")
    if values.get("parent") and isinstance(values.get("from_parent"), dict | None):
        for family in families:
            if family not in MAY_BE_LEFT_OUT and family not in taken:
                fix = f"write `from_parent: {{{family}: load}}`, or merge, or new"
                yield Problem(f"from_parent.{family}", None, "what to take over", fix)
    for family, value in taken.items():
        key = f"from_parent.{family}"
        if family not in families:
            yield Problem(key, value, "a part of the system", did_you_mean(family, families))
        elif value not in HANDOVER:
            yield Problem(key, value, " | ".join(HANDOVER), "choose one")


def handover_problems(cfg: DictConfig, parent: DictConfig) -> list[Problem]:
    """List the handed-over parts that are surely of another shape than the parent's.

    Args:
        cfg: a stage's resolved configuration.
        parent: that of the stage before.

    Returns:
        The problems: another part, or another number of layers or queries.
    """
    problems = []
    for family, handover in cfg.from_parent.items():
        ours, theirs = cfg.get(family), parent.get(family)
        if handover == "new" or ours is None or theirs is None:
            continue
        sizes = [
            name
            for part in ("*", ours.name)
            for name in SIZES.get((str(family), part), ())
            if name in ours and name in theirs
        ]
        if any(ours[name] != theirs[name] for name in ("name", *sizes)):
            problems.append(unlike_parent(cfg, parent, str(family)))
    return problems


def unlike_parent(cfg: DictConfig, parent: DictConfig, family: str) -> Problem:
    """Say that a part cannot be handed over, and what would mend that.

    Args:
        cfg: the stage's resolved configuration.
        parent: that of the stage before.
        family: the part.
    """
    ours, theirs = dict(cfg[family]), dict(parent.get(family) or {})
    differs = {key: value for key, value in ours.items() if theirs.get(key) != value}
    wanted = {key: theirs[key] for key in differs if key in theirs}
    expected = f"{wanted or theirs} as in {parent.stage}, which hands its {family} over"
    same = " ".join(f"{cfg.stage}.{family}.{key}={value}" for key, value in wanted.items())
    fix = f"write `{same}`, or `{cfg.stage}.from_parent.{family}=new` to start it anew"
    return Problem(f"{cfg.stage}.{family}", differs, expected, fix)
