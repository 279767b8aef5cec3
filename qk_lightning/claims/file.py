"""What a claim's file says: a sentence of a paper, its numbers, and the sweep that tests it.

`reader` reads and checks the file, `plan` finds the runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from qk_lightning.sweeps.file import SweepFile

Kind = Literal["better_than", "no_worse_than", "above"]
KINDS: tuple[Kind, ...] = ("better_than", "no_worse_than", "above")


@dataclass(frozen=True)
class Comparison:
    """One thing that should come out.

    Args:
        arm: label of the arm that the claim speaks for.
        kind: `better_than` another arm; `no_worse_than` it by more than `by`; `above` a value.
        other: label of the other arm; "" for `above`.
        metric: the metric.
        goal: `min` or `max`, which end of the metric is better.
        by: how much worse is still no worse, in units of the metric, 0 or more.
        value: what `above` is measured against; with the goal `min` the metric should lie below.
    """

    arm: str
    kind: Kind
    other: str
    metric: str
    goal: Literal["min", "max"]
    by: float = 0.0
    value: float = 0.0

    def __str__(self) -> str:
        """Say what is expected."""
        if self.kind == "above":
            side = "above" if self.goal == "max" else "below"
            return f"{self.metric} of {self.arm} {side} {self.value:g}"
        if self.kind == "no_worse_than":
            return (
                f"{self.arm} no worse than {self.other} by more than {self.by:g} in {self.metric}"
            )
        return f"{self.arm} better than {self.other} in {self.metric}"


@dataclass(frozen=True)
class Source:
    """Where a claim stands.

    Args:
        paper: name and address of the paper.
        where: table, figure or section.
    """

    paper: str
    where: str

    def __str__(self) -> str:
        """Write both."""
        return f"{self.paper}, {self.where}"


@dataclass(frozen=True)
class Claim:
    """A claim that was checked.

    Args:
        name: the file's name.
        claim: the claim in words.
        source: where it stands.
        published: the source's numbers: value by metric, by arm; {} where it has none.
        arms: the sweep's row by the claim's own label of it.
        sweep: the sweep that tests it.
        stage: the stage that is compared; later ones are not trained.
        expect: what should come out, all of it.
        note: how the small test differs from the source's; "" for nothing to say.
        path: the file, None when it was made in memory.
    """

    name: str
    claim: str
    source: Source
    published: Mapping[str, Mapping[str, float]]
    arms: Mapping[str, str]
    sweep: SweepFile
    stage: str
    expect: tuple[Comparison, ...]
    note: str = ""
    path: Path | None = None

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that each arm is trained with."""
        return self.sweep.seeds

    def describe_published(self) -> str:
        """Write the source's numbers in one line."""
        if not self.published:
            return "no numbers"
        return "; ".join(
            f"{arm}: {', '.join(f'{metric} {value:g}' for metric, value in numbers.items())}"
            for arm, numbers in self.published.items()
        )
