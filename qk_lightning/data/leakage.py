"""Whether what a world holds out is in its training data: concepts, phrasings, pictures.

A world says of a val sample in `facts["held_out"]` which kinds of things train never shows, and
may have `violations(sample)`, which looks itself. Here both splits are walked, so that nothing
has to be believed. A sample without such facts counts as held out by its picture alone.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qk_lightning.data.collate import spread
from qk_lightning.data.sample import Progress, Sample, Split, World, WorldPart

PHRASING = "phrasing"
MAX_EXAMPLES = 3
_NUMBERS = ("one", "two", "three", "four", "five", "six")
_NOT_WORDS = ("tag", "op", "world", "held_out")  # facts that name no thing in the picture


@dataclass(frozen=True)
class Finding:
    """One kind of held-out thing and how often train has it.

    Args:
        world: Label of the world in a mixture, else "".
        kind: What is held out, such as "pair", or "pictures of held-out items".
        num_val: Val samples that have it.
        num_train: Training samples (or their prompts, pictures, questions) looked at.
        found: How many of them have it too.
        is_leak: Whether one is too many.
        examples: Ids of a few of them.
    """

    world: str
    kind: str
    num_val: int
    num_train: int
    found: int
    is_leak: bool = True
    examples: tuple[str, ...] = ()


@dataclass(frozen=True)
class LeakageReport:
    """All findings on a world.

    Args:
        findings: One a world and kind.
    """

    findings: tuple[Finding, ...]

    @property
    def leaks(self) -> list[Finding]:
        """The findings that must not be."""
        return [item for item in self.findings if item.is_leak and item.found]

    def describe(self) -> str:
        """Returns the table as text, and examples of what leaks."""
        head = ("world", "held out", "val", "train", "in train")
        rows = [
            (item.world or "-", item.kind, f"{item.num_val:,}", f"{item.num_train:,}",
             f"{item.found:,}" + ("" if item.is_leak else " (allowed)"))
            for item in self.findings
        ]  # fmt: skip
        widths = [max(len(row[n]) for row in [head, *rows]) for n in range(len(head))]
        lines = [
            "  ".join(
                text.ljust(width) if place < 2 else text.rjust(width)
                for place, (text, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in [head, *rows]
        ]
        lines += [
            f"LEAK: {item.world + ' ' if item.world else ''}{item.kind}: {', '.join(item.examples)}"
            for item in self.leaks
        ]
        return "\n".join(lines if self.leaks else [*lines, "nothing that is held out is in train"])


def check_leakage(
    world: World,
    num_train_samples: int | None = None,
    num_questions: int = 2000,
    progress: Progress | None = None,
) -> LeakageReport:
    """Looks for what a world holds out in what it trains on.

    Args:
        world: Prepared; the worlds of a mixture are looked at one by one.
        num_train_samples: How many training samples, spread over tasks and layouts; None = all.
        num_questions: How many training questions, where a world has any.
        progress: Called with (done, total) training samples.

    Returns:
        The findings.
    """
    parts, findings = world.parts(), []
    chosen = [
        list(_addresses(part.world, "train", num_train_samples, len(parts))) for part in parts
    ]
    done, total = 0, sum(len(addresses) for addresses in chosen)
    for part, addresses in zip(parts, chosen, strict=True):
        walk = _Walk(part)
        for task, index in addresses:
            walk.train_sample(part.world.sample(task, "train", index))
            done += 1
            if progress is not None:
                progress(done, total)
        for index in range(num_questions if hasattr(part.world, "qa") else 0):
            walk.train_question(index)
        findings += walk.findings()
    return LeakageReport(tuple(findings))


def _addresses(
    world: World, split: Split, count: int | None, num_parts: int
) -> Iterator[tuple[str, int]]:
    tasks = [task for task in world.tasks if world.num_samples(task, split)]
    for task in tasks:
        of_task = world.num_samples(task, split)
        if count is not None:
            of_task = -(-count // (len(tasks) * num_parts))
        for indices in spread(world, task, split, of_task):
            yield from ((task, index) for index in indices)


@dataclass
class _Leak:
    """What was found of one kind."""

    found: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        """Count one more; the first few are kept by name."""
        self.found += 1
        if len(self.examples) < MAX_EXAMPLES:
            self.examples.append(name)


class _Walk:
    """What one world shows in its splits.

    Args:
        part: The world.
    """

    def __init__(self, part: WorldPart) -> None:
        self.label, self.world = part.label, part.world
        self.violations = getattr(part.world, "violations", None)
        self.val = [
            part.world.sample(task, "val", index)
            for task, index in _addresses(part.world, "val", None, 1)
        ]
        self.kinds = list(dict.fromkeys(kind for sample in self.val for kind in _flags(sample)))
        self.shown: dict[str, _Leak] = {kind: _Leak() for kind in self.kinds}
        self.asked = _Leak()
        self.num_samples = self.num_questions = 0
        self.rows: dict[int, str] = {}  # row -> the first sample that shows it
        self.prompts: dict[str, str] = {}

    def train_sample(self, sample: Sample) -> None:
        """Note what a training sample shows and says."""
        self.num_samples += 1
        for row in (*sample.images, sample.target):
            self.rows.setdefault(row, sample.id)
        self.prompts.setdefault(sample.prompt, sample.id)
        for kind in self.violations(sample) if self.violations else _true_flags(sample):
            self.shown.setdefault(kind, _Leak()).add(sample.id)

    def train_question(self, index: int) -> None:
        """Note what a training question shows."""
        self.num_questions += 1
        if hasattr(self.world, "question"):
            question = self.world.question(index, "train")
            row = question.row
            if question.held_out:
                self.asked.add(f"question {index}")
        else:
            row, _, _ = self.world.qa(index, "train")  # type: ignore[attr-defined]
        if row is not None:
            self.rows.setdefault(row, f"question {index}")

    def findings(self) -> list[Finding]:
        """Return what was found."""
        flags = Counter(kind for sample in self.val for kind in _true_flags(sample))
        found = [
            self._finding(kind, flags[kind], self.num_samples, leak)
            for kind, leak in self.shown.items()
            if kind != PHRASING
        ]
        if PHRASING in self.kinds:
            found.append(self._phrasings())
        found += self._pictures()
        if self.num_questions:
            held_out = sum(bool(_true_flags(sample)) for sample in self.val)
            found.append(self._finding("questions", held_out, self.num_questions, self.asked))
        return found

    def _finding(
        self, kind: str, num_val: int, num_train: int, leak: _Leak, is_leak: bool = True
    ) -> Finding:
        examples = tuple(leak.examples)
        return Finding(self.label, kind, num_val, num_train, leak.found, is_leak, examples)

    def _phrasings(self) -> Finding:
        """Held-out phrasings that train has with the same or with other words in them."""
        held_out = [sample for sample in self.val if PHRASING in _true_flags(sample)]
        pattern = _pattern({word for sample in self.val for word in _words(sample.facts)})
        known = {pattern.sub("_", sample.prompt) for sample in held_out}
        leak = self.shown[PHRASING]
        for prompt, name in self.prompts.items():
            if pattern.sub("_", prompt) in known:
                leak.add(f"{name} ({prompt!r})")
        return self._finding(PHRASING, len(held_out), len(self.prompts), leak)

    def _pictures(self) -> list[Finding]:
        """Val targets that train shows, pixel by pixel."""
        shown: dict[bytes, str] = {}
        for row, name in self.rows.items():
            shown.setdefault(self._digest(row), name)
        targets: dict[int, bool] = {}
        for sample in self.val:
            flags = [kind for kind in _true_flags(sample) if kind != PHRASING]
            held_out = bool(flags) or not _flags(sample)
            targets[sample.target] = targets.get(sample.target, False) or held_out
        found = []
        for held_out, kind in ((True, "pictures of held-out items"), (False, "other pictures")):
            rows = [row for row, is_held_out in targets.items() if is_held_out == held_out]
            leak = _Leak()
            for name in filter(None, (shown.get(self._digest(row)) for row in rows)):
                leak.add(name)
            if rows:
                found.append(self._finding(kind, len(rows), len(shown), leak, held_out))
        return found

    def _digest(self, row: int) -> bytes:
        return hashlib.sha256(self.world.image(row).tobytes()).digest()


def _flags(sample: Sample) -> dict[str, bool]:
    held_out = sample.facts.get("held_out")
    return dict(held_out) if isinstance(held_out, Mapping) else {}


def _true_flags(sample: Sample) -> list[str]:
    return [kind for kind, is_true in _flags(sample).items() if is_true]


def _words(value: Any) -> Iterator[str]:
    """Every text in facts: shapes, colours, attributes, relations."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            if name not in _NOT_WORDS:
                yield from _words(inner)
    elif isinstance(value, Sequence):
        for inner in value:
            yield from _words(inner)


def _pattern(words: set[str]) -> re.Pattern[str]:
    """What is replaced by a blank to see a prompt's phrasing: the longest words first."""
    ordered = sorted({*words, *_NUMBERS} - {""}, key=len, reverse=True)
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, ordered))})(?:e?s)?\b")
