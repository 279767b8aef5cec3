"""The tables of `qk bench` as Markdown, and their places in a page.

Not here: what they tell of (sizes.py, triples.py).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from qk_lightning.bench.sizes import Size
from qk_lightning.bench.triples import Outcome
from qk_lightning.config.atomic import write_text


def sizes_table(sizes: Sequence[Size]) -> str:
    """Write counted beside published sizes.

    Args:
        sizes: what was published.

    Returns:
        A Markdown table.
    """
    lines = ["| part | counted | published | off by | source |", "|---|---:|---:|---:|---|"]
    for size in sizes:
        off = size.millions / size.published - 1
        published = f"{'about ' if size.tolerance > 0.1 else ''}{size.published:,.0f} M"
        row = (size.what, f"{size.millions:,.1f} M", published, f"{off:+.1%}", size.source)
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def triples_table(outcomes: Sequence[Outcome]) -> str:
    """Write a table a VLM: a row a connector, a column a head.

    Args:
        outcomes: of the triples tried.

    Returns:
        Markdown; the reasons of refusals and faults stand below, numbered.
    """
    reasons: list[str] = []
    pieces = []
    for vlm in dict.fromkeys(outcome.vlm for outcome in outcomes):
        own = {(o.connector, o.head): o for o in outcomes if o.vlm == vlm}
        heads = list(dict.fromkeys(head for _, head in own))
        lines = [f"| `{vlm}` with | {' | '.join(f'`{head}`' for head in heads)} |"]
        lines.append("|---|" + "---|" * len(heads))
        for connector in dict.fromkeys(name for name, _ in own):
            cells = [_cell(own[connector, head], reasons) for head in heads]
            lines.append(f"| `{connector}` | {' | '.join(cells)} |")
        pieces.append("\n".join(lines))
    if reasons:
        pieces.append("\n".join(f"{place}. {text}" for place, text in enumerate(reasons, 1)))
    return "\n\n".join(pieces)


def _cell(outcome: Outcome, reasons: list[str]) -> str:
    said = outcome.fault or outcome.refused
    if not said:
        return f"{outcome.reached} of {outcome.learning}"
    if said not in reasons:
        reasons.append(said)
    return f"{'FAULT' if outcome.fault else 'refused'} ({reasons.index(said) + 1})"


def write_section(page: Path, name: str, text: str) -> None:
    """Put a table into a page, between the comments that mark its place.

    Args:
        page: a Markdown page; one that is missing is made.
        name: of the section, in `<!-- begin: NAME -->` and `<!-- end: NAME -->`.
        text: the table.
    """
    marked = f"<!-- begin: {name} -->\n{text}\n<!-- end: {name} -->"
    old = page.read_text(encoding="utf-8") if page.is_file() else ""
    word = re.escape(name)
    section = re.compile(rf"<!-- begin: {word} -->.*?<!-- end: {word} -->", re.DOTALL)
    if section.search(old):
        new = section.sub(lambda _: marked, old)
    else:
        new = f"{old.rstrip()}\n\n{marked}\n".lstrip()
    write_text(page, new)
