"""The one error of a user's configuration: every problem at once, each with its fix.

What is here: `Problem` (one thing wrong) and `ConfigError` (all of them together).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MAX_NAMES = 24


@dataclass(frozen=True)
class Problem:
    """One thing wrong with what the user gave.

    Args:
        key: the dotted key, file or argument, for example `connector.num_layers`.
        value: what was given there.
        expected: what would have been right.
        fix: what to type or change.
        origin: the file and line that the value came from, or "" where there is none.
    """

    key: str
    value: object
    expected: str
    fix: str = ""
    origin: str = ""

    def __str__(self) -> str:
        """Say the problem in one or two lines."""
        text = f"{self.key} = {self.value!r}" if self.value is not None else self.key
        if self.origin:
            text += f" ({self.origin})"
        text += f": expected {self.expected}"
        return f"{text}\n    fix: {self.fix}" if self.fix else text


class ConfigError(ValueError):
    """A user's mistake, found before any weight was loaded.

    Args:
        problems: everything that is wrong; the message lists all.
    """

    def __init__(self, problems: Problem | Sequence[Problem]) -> None:
        self.problems = [problems] if isinstance(problems, Problem) else list(problems)
        count = len(self.problems)
        head = "1 problem:" if count == 1 else f"{count} problems:"
        super().__init__("\n".join([head, *(f"  - {problem}" for problem in self.problems)]))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Suggest the known word nearest to a misspelt one.

    Args:
        word: what was typed.
        known: what would have been accepted.

    Returns:
        A sentence such as "did you mean 'queries'?", else the list of known words.
    """
    names = sorted({str(name) for name in known})
    near = difflib.get_close_matches(str(word), names, n=1, cutoff=0.6)  # a key may be a number
    if near:
        return f"did you mean {near[0]!r}?"
    if not names:
        return "nothing is accepted here"
    shown = ", ".join(names[:MAX_NAMES])
    return f"known: {shown}" + (f" and {len(names) - MAX_NAMES} more" * (len(names) > MAX_NAMES))


def with_article(noun: str) -> str:
    """Return `a head`, `an objective`.

    Args:
        noun: the word.
    """
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"
