"""The commands of README, docs and preset headers: finding them, and planning what they name."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path

from qk_lightning.bench.variants import entrants_of
from qk_lightning.claims.reader import load_claims
from qk_lightning.cli.main import build_parser, main
from qk_lightning.cli.runs import NUM_ARGUMENTS
from qk_lightning.cli.train import sweep_file
from qk_lightning.config.chain import plan_chain
from qk_lightning.config.paths import list_presets, list_suites
from qk_lightning.config.schema import names_of, schema_of
from qk_lightning.sweeps.plan import plan_sweep
from qk_lightning.sweeps.reader import load_sweep

REPOSITORY = Path(__file__).parents[1]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
BLOCK = re.compile(r"(?:<!-- (file|output)(?:: (\S+))? -->\n)?^```(\w*)\n(.*?)^```$", re.M | re.S)
# A command that draws a world is run on a small one.
TINY_WORLD = {"scenes": ["num_scenes=8", "num_val=8"], "avatars": ["num_identities=8", "num_val=4"]}


def blocks(page: Path) -> list[tuple[str, str, str, str]]:
    """Return (marker, file name, language, text) of each fenced block."""
    return [tuple(part or "" for part in found) for found in BLOCK.findall(page.read_text())]


def commands(page: Path) -> list[list[str]]:
    """Return the words of each command in the page's bash blocks."""
    found = []
    for _, _, language, text in blocks(page):
        for line in text.splitlines() if language == "bash" else ():
            for part in re.split(r" && | ; ", line):
                if words := shlex.split(part, comments=True):
                    found.append(words)
    return found


def plan(words: list[str]) -> None:
    """Parse a command and compose what it names; run it where that is cheap."""
    options = build_parser().parse_args(words)
    if options.verb == "fit":
        assert main([*words, *([] if options.plan else ["--plan"])]) == 0
    elif options.verb == "sweep":
        sweep = load_sweep(sweep_file(options.file))
        assert plan_sweep(replace(sweep, seeds=sweep.seeds[:1]), options.overrides).describe()
    elif options.verb == "report":
        assert load_sweep(sweep_file(options.sweep)).metrics
    elif options.verb == "claims":
        assert load_claims(options.names)  # tests/claims plans them
    elif options.verb == "config":
        assert main(words) == 0
    elif options.verb == "generate":
        for name in options.run:
            known(name)
    elif options.verb == "export":
        known(options.run)
    elif options.verb == "evaluate":
        *runs, suite = [word for word in options.words if "=" not in word]
        assert suite in (*list_suites(), "all", "readers")
        for name in runs:
            known(name)
    elif options.verb == "runs":
        assert len(options.arguments) == NUM_ARGUMENTS[options.action]
        assert options.action != "list" or main(words) == 0
    elif options.verb == "bench":
        assert set(options.only) <= {n for f in ("vlm", "connector", "head") for n in names_of(f)}
        if options.what == "train":
            preset, *overrides = options.words
            assert entrants_of(preset, overrides, options.variants, 1, options.text_lengths)
    elif options.world.endswith(".jsonl"):
        assert main(words) == 0
    else:
        assert schema_of("world", options.world).options
        if options.action == "show":
            assert main([*words, *TINY_WORLD[options.world]]) == 0


def known(run: str) -> None:
    """See that a command names a preset, `prompts`, or a run that the page has made."""
    made = {name for page in PAGES for words in commands(page) for name in words}
    if run in list_presets():
        plan_chain(run)
    else:
        assert run == "prompts" or f"name={run}" in made, f"no preset and no run: {run}"
