r"""The report's tables for a paper: booktabs, means with intervals, bold for what is shown better.

Needs `\usepackage{booktabs}` alone. Everything that a user wrote is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from qk_lightning.sweeps.file import SweepFile
from qk_lightning.sweeps.results import TableRow
from qk_lightning.sweeps.statistics import CONFIDENCE, POWER, SEEDS, Difference, Summary
from qk_lightning.sweeps.tables import decimals, format_number, measured, other_code

LATEX_FILE = "report.tex"
SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "%": r"\%",
    "#": r"\#", "_": r"\_", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': "''",
}  # fmt: skip
ARROWS = {"min": r"$\downarrow$", "max": r"$\uparrow$"}
# Beyond ASCII, what pdflatex sets with no package but booktabs; found by setting each of them.
ACCENTED = {chr(code) for code in range(0xA1, 0x180)} - set("«»ÐÞðþĄąĐđĘęĦħĮįĸĿŀŉŊŋŦŧŲųſ")
PLAIN = ACCENTED | set("–—‘’“”†‡•…€™←→")
GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau "
    "upsilon phi chi psi omega"
)
MATHS = {
    **dict(zip("αβγδεζηθικλμνξπρστυφχψω", GREEK.split(), strict=True)),
    "Γ": "Gamma", "Δ": "Delta", "Θ": "Theta", "Λ": "Lambda", "Σ": "Sigma", "Φ": "Phi",
    "Ω": "Omega", "≤": "leq", "≥": "geq", "≠": "neq", "≈": "approx", "∞": "infty",
}  # fmt: skip
LONG_NAME = 36  # letters; a longer one is broken into lines
MOST_COLUMNS = 2  # of numbers side by side on a page one column wide


def escape_latex(text: str) -> str:
    """Write a text so that LaTeX shows it as it is.

    Args:
        text: anything; line breaks and control characters become spaces, and letters that no
            font of LaTeX's own has become their numbers, such as (U+2713).
    """
    return "".join(_letter(letter) for letter in text)


def _letter(letter: str) -> str:
    if letter in MATHS:
        return f"$\\{MATHS[letter]}$"
    if not letter.isprintable():
        return " "
    if letter.isascii() or letter in PLAIN:
        return SPECIAL.get(letter, letter)
    return f"(U+{ord(letter):04X})"


def compose_latex(file: SweepFile, table: Sequence[TableRow], notes: Sequence[str]) -> str:
    r"""Write a table a stage.

    Args:
        file: the sweep file.
        table: the rows over seeds.
        notes: what a reader of any of the tables must know, such as runs of different code.

    Returns:
        LaTeX, to be read by `\input`.
    """
    blocks = [r"% Needs \usepackage{booktabs}; from runs/sweeps/" + _comment(file.name)]
    for stage in dict.fromkeys(row.stage for row in table):
        rows = [row for row in table if row.stage == stage]
        blocks.append(_stage(file, rows, notes))
    if not table:
        blocks.append("% No finished run has one of the sweep's metrics yet.")
    return "\n".join(blocks) + "\n"


def _comment(text: str) -> str:
    return " ".join(text.split())


def _stage(file: SweepFile, rows: Sequence[TableRow], notes: Sequence[str]) -> str:
    metrics = measured(file, rows)
    compared = any(row.is_baseline for row in rows)
    width = 2 if compared else 1
    axes = escape_latex(", ".join(file.axes) or "row")
    under = ["mean", *(["difference"] if compared else [])]
    if width * len(metrics) > MOST_COLUMNS:  # metrics below each other
        columns = "l" + "r" * width
        heading = [" & ".join([axes, *under]) + r" \\"]
        body = []
        for metric, goal in metrics.items():
            title = f"\\emph{{{escape_latex(metric)}}} {ARROWS[goal]}"
            body += [r"\midrule", f"\\multicolumn{{{width + 1}}}{{l}}{{{title}}} \\\\"]
            body += _body(rows, {metric: goal}, compared)
    else:
        columns = "l" + "r" * width * len(metrics)
        names = [f"\\multicolumn{{{width}}}{{c}}{{{escape_latex(metric)} {ARROWS[goal]}}}"
                 for metric, goal in metrics.items()]  # fmt: skip
        rules = "".join(f"\\cmidrule(lr){{{2 + width * place}-{1 + width * (place + 1)}}}"
                        for place in range(len(metrics)))  # fmt: skip
        heading = [" & ".join(["", *names]) + r" \\", rules]
        heading.append(" & ".join([axes, *under * len(metrics)]) + r" \\")
        body = [r"\midrule", *_body(rows, metrics, compared, r"\midrule")]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering\small",
            f"\\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            *heading,
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            f"\\caption{{{_caption(file, rows, notes)}}}",
            r"\end{table}",
        ]
    )


def _body(
    rows: Sequence[TableRow], metrics: Mapping[str, str], compared: bool, between: str = ""
) -> list[str]:
    """Write the rows of the grid, and then the controls."""
    body = [_line(row, metrics, compared) for row in rows if not row.control]
    controls = [_line(row, metrics, compared) for row in rows if row.control]
    return [*body, *([between] if controls and between else []), *controls]


def _line(row: TableRow, metrics: Mapping[str, str], compared: bool) -> str:
    said = f"{row.row} (against {row.against})" if row.control and row.against else row.row
    name = escape_latex(said) + ("$^{*}$" if row.other_code else "")
    if len(said) > LONG_NAME:
        name = f"\\parbox[t]{{0.4\\linewidth}}{{\\raggedright {name}\\strut}}"
    cells = [name]
    for metric in metrics:
        difference = row.differences[metric]
        better = difference is not None and difference.verdict == "better"
        cells.append(_bold(_mean(row.metrics[metric]), better))
        if compared:
            cells.append("baseline" if row.is_baseline else _bold(_difference(difference), better))
    return " & ".join(cells) + r" \\"


def _bold(text: str, yes: bool) -> str:
    return f"\\textbf{{\\boldmath {text}}}" if yes else text


def _mean(summary: Summary | None) -> str:
    if summary is None:
        return "--"
    if not math.isfinite(summary.mean):
        return escape_latex(str(summary.mean))
    if summary.half_width is None:
        return f"${format_number(summary.mean)}$"
    digits = decimals(summary.half_width, summary.mean)
    return f"${summary.mean:.{digits}f} \\pm {summary.half_width:.{digits}f}$"


def _difference(difference: Difference | None) -> str:
    if difference is None:
        return "--"
    summary = difference.summary
    if not math.isfinite(summary.mean):
        return difference.verdict
    if summary.low is None or summary.high is None:
        return f"${summary.mean:+.4g}$ ({difference.verdict})"
    digits = decimals(summary.half_width or 0.0, summary.mean)
    text = (f"${summary.mean:+.{digits}f}$ $[{summary.low:+.{digits}f}, "
            f"{summary.high:+.{digits}f}]$")  # fmt: skip
    return text + ("$^{\\dagger}$" if difference.borderline else "")


def _caption(file: SweepFile, rows: Sequence[TableRow], notes: Sequence[str]) -> str:
    percent = f"{100 * CONFIDENCE:.0f}\\,\\%"
    differences = [one for row in rows for one in row.differences.values() if one is not None]
    arms = max((one.arms for one in differences if one.adjusted_p is not None), default=0)
    seeds = ", ".join(str(seed) for seed in file.seeds)
    sentences = [f"{escape_latex(file.name)}, {escape_latex(rows[0].stage)}; seeds {seeds}."]
    if arms:
        sentences.append(
            f"Intervals: {percent}, Student's t over seeds; differences paired by seed. Bold: "
            f"better than the baseline, Holm-corrected over {arms} arm{'s' * (arms > 1)} a metric."
        )
        shown = [one.detectable for one in differences if one.verdict == "no difference shown"]
        if any(shown):
            sentences.append(
                "The smallest differences that would have been shown with "
                f"{100 * POWER:.0f}\\,\\% power are in table.csv."
            )
    elif any(s and s.half_width is not None for row in rows for s in row.metrics.values()):
        sentences.append(f"$\\pm$: {percent} interval of the mean, Student's t over seeds.")
    if any(one.borderline for one in differences):
        sentences.append(r"$^{\dagger}$ the interval alone leaves 0 out, Holm's correction does "
                         "not follow it.")  # fmt: skip
    if bases := sorted({one.basis for one in differences if one.basis != SEEDS}):
        sentences.append(f"Intervals of differences over {escape_latex('; '.join(bases))}: "
                         "how far other prompts would move them, not other seeds.")  # fmt: skip
    sentences += [f"$^{{*}}$ {escape_latex(line.removeprefix('* '))}." for line in other_code(rows)]
    return " ".join([*sentences, *(escape_latex(note) for note in notes)])
