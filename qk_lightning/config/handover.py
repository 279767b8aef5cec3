"""Parts that a stage hands over, held against the parent's: what differs in shape for certain.

Not here: shapes themselves, which only built parts know (`sweeps/preflight.py`).
"""

from __future__ import annotations

from omegaconf import DictConfig

from qk_lightning.config.errors import Problem

# Options that are sizes of tensors by family and part; a `*` stands for all parts of the family.
SIZES = {
    ("queries", "learnable"): ("num_queries",),
    ("queries", "random"): ("num_queries",),
    ("connector", "*"): ("num_layers",),
    ("head", "*"): ("num_layers", "num_single_layers"),
}


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
