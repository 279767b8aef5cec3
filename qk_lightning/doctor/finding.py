"""A finding: one thing that was looked at, how it stands, and how to get what is missing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report.

    Args:
        name: what was looked at.
        state: `ok`; `note`, worth knowing; or `missing`, needed and not usable.
        text: how it stands.
        fix: what to type or do.
    """

    name: str
    state: Literal["ok", "note", "missing"]
    text: str
    fix: str = ""

    def describe(self, width: int = 28) -> str:
        """Write it for people.

        Args:
            width: columns of the name.
        """
        line = f"  {self.state:<8}{self.name:<{width}} {self.text}".rstrip()
        return f"{line}\n{' ' * (width + 11)}fix: {self.fix}" if self.fix else line


def size_text(count: float) -> str:
    """Write a number of bytes for people.

    Args:
        count: bytes.

    Returns:
        For example `1.4 GB`.
    """
    for unit in ("bytes", "KB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB" if count < 1000 else f"{count / 1000:.1f} TB"
