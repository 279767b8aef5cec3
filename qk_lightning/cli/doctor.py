"""`qk doctor`: is everything there that the kit needs? Quick checks first, slow ones after."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator

from qk_lightning.doctor.finding import Finding

# Heading, module under `qk_lightning.doctor`, its check; the slow ones import the libraries.
QUICK = (
    ("packages", "packages", "check_packages"),
    ("machine", "imports", "check_machine"),
    ("project", "project", "check_project"),
    ("weights", "project", "check_weights"),
    ("MLflow", "store", "check_address"),
    ("runs", "runs", "check_runs"),
    ("presets", "project", "check_presets"),
)
SLOW = (
    ("imports and devices", "imports", "check_imports"),
    ("MLflow server", "store", "check_remote"),
)
MISSING = 1


def doctor(options: argparse.Namespace) -> int:
    """Print what was found, and how to get what is missing.

    Args:
        options: the parsed command line.

    Returns:
        0 when all is usable, 1 when something that is needed is missing.
    """
    missing: list[Finding] = []
    for heading, module, check in (*QUICK, *(() if options.quick else SLOW)):
        is_first = True
        for finding in _findings(heading, module, check):
            if is_first:
                print(heading, flush=True)
                is_first = False
            print(finding.describe(), flush=True)
            missing += [finding] if finding.state == "missing" else []
    if missing:
        print(f"\nmissing or broken: {', '.join(finding.name for finding in missing)}")
        return MISSING
    print(f"\nall is usable{' (imports were not tried)' if options.quick else ''}")
    return 0


def _findings(heading: str, module: str, check: str) -> Iterator[Finding]:
    """Run one check; one that cannot even start for want of a package is a finding too."""
    try:
        yield from getattr(importlib.import_module(f"qk_lightning.doctor.{module}"), check)()
    except ImportError as error:
        text = f"cannot be looked at: {error}"
        yield Finding(heading, "missing", text, "see packages, above")
