"""What all rows of a sweep spend alike: the rule as a sweep file has it. `budget` applies it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from qk_lightning.config.errors import did_you_mean

KINDS = ("steps", "samples", "training_flops", "seconds")
KEYS = ("equal", "amount")
EXAMPLE = "write `budget: {equal: samples}`"


@dataclass(frozen=True)
class Budget:
    """A budget rule.

    Args:
        equal: what is made equal: `steps`, `samples` (steps x global batch), `training_flops`
            (counted without running) or `seconds` (of training steps, measured in a short run).
        amount: how much of it by stage, "" for the last one; a stage that is not named spends
            what the row's baseline does.
    """

    equal: str
    amount: dict[str, float] = field(default_factory=dict)

    def to_values(self) -> dict[str, Any]:
        """Return what a sweep file would say."""
        amount: Any = self.amount
        if list(self.amount) == [""]:
            amount = self.amount[""]
        return {"equal": self.equal, **({"amount": amount} if self.amount else {})}


def read_budget(node: Any, add: Callable[[str, Any, str, str], None]) -> Budget | None:
    """Read and check `budget:` of a sweep file.

    Args:
        node: what stands there.
        add: takes a problem: key, value, what is expected, and the fix.

    Returns:
        The rule, None where it is wrong.
    """
    if not isinstance(node, dict):
        add("budget", node, "a mapping", EXAMPLE)
        return None
    wrong = [key for key in node if key not in KEYS]
    for key in wrong:
        add(f"budget.{key}", node[key], " or ".join(KEYS), did_you_mean(str(key), KEYS))
    if node.get("equal") not in KINDS:
        add("budget.equal", node.get("equal"), f"one of {', '.join(KINDS)}", EXAMPLE)
        return None
    given = node.get("amount")
    amount = given if isinstance(given, dict) else {} if given is None else {"": given}
    for stage, value in amount.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value) or value <= 0:
            key = f"budget.amount.{stage}" if stage else "budget.amount"
            fix = "write `amount: 3200`, or `amount: {stage3: 3200}`"
            add(key, value, "a number above 0", fix)
            wrong.append(stage)
    if wrong:
        return None
    return Budget(node["equal"], {str(stage): float(value) for stage, value in amount.items()})
