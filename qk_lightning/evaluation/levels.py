"""What a score is to be seen against: names and meanings of the controls. No torch.

They are computed in controls.py and stand in each summary.json beside every metric.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

EVALUATIONS = "evaluations"
FINAL = "final"  # under it, the scores of the end of a run
SUMMARY = "summary.json"
# Control -> its name in tables.
NAMES = {
    "recon": "ceiling",
    "gt": "truth",
    "shuffled": "shuffled",
    "own_shuffled": "own shuffled",
    "copy": "copy",
    "blank": "blank",
}
MEANINGS = {
    "recon": "the world's own pictures through the codec, the most that anything drawn can reach",
    "gt": "the world's own pictures, so what the reader gets right",
    "shuffled": "the right picture of another prompt of the same kind, so chance",
    "own_shuffled": "the run's own pictures held against each other's prompts",
    "copy": "the first input picture, unchanged",
    "blank": "plain grey pictures",
}
Levels = dict[str, dict[str, float]]


def read_levels(run: Path) -> Levels:
    """Read the controls beside the end-of-run scores.

    Args:
        run: a run's folder.

    Returns:
        Value by control, by metric; {} where the run has no such scores.
    """
    found: Levels = {}
    for file in sorted((run / EVALUATIONS / FINAL).glob(f"*/{SUMMARY}")):
        for metric, entry in json.loads(file.read_text(encoding="utf-8"))["metrics"].items():
            found[metric] = {name: float(value) for name, value in entry["controls"].items()}
    return found


def in_order(levels: Mapping[str, float]) -> dict[str, float]:
    """Sort controls as tables show them.

    Args:
        levels: value by control.
    """
    return {name: levels[name] for name in NAMES if name in levels}
