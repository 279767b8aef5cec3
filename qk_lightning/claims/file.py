"""What a claim's file says: a sentence of a paper, its numbers, and the sweep that tests it.

`reader` reads and checks the file, `plan` finds the runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from qk_lightning.sweeps.file import SweepFile

Kind = Literal["better_than", "no_worse_than", "above"]
KINDS: tuple[Kind, ...] = ("better_than", "no_worse_than", "above")
MAX_SEEDS_TEXT = 40  # letters of a folder's name


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
        other_seeds: whether the seeds are not the file's own.
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
    other_seeds: bool = False

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that each arm is trained with."""
        return self.sweep.seeds

    @property
    def command(self) -> str:
        """What trains its runs."""
        return self.sweep.command

    def with_seeds(self, seeds: Sequence[int]) -> Claim:
        """Return the same claim on other seeds, its sweep's report apart from that of its own.

        Args:
            seeds: the seeds.
        """
        sweep = replace(
            self.sweep,
            name=f"{self.sweep.name}-{name_of(seeds)}",
            seeds=tuple(seeds),
            command=f"{self.command} --seeds {','.join(map(str, seeds))}",
        )
        return replace(self, sweep=sweep, other_seeds=True)

    def describe_published(self) -> str:
        """Write the source's numbers in one line."""
        if not self.published:
            return "no numbers"
        return "; ".join(
            f"{arm}: {', '.join(f'{metric} {value:g}' for metric, value in numbers.items())}"
            for arm, numbers in self.published.items()
        )


def name_of(seeds: Sequence[int]) -> str:
    """Return what a folder of results of other seeds is called, such as `seeds-10-11-12`.

    Args:
        seeds: the seeds.
    """
    text = "-".join(map(str, seeds))
    if len(text) > MAX_SEEDS_TEXT:
        text = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"seeds-{text}"
