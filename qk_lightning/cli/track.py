"""`qk track`: MLflow's view brought up to the run folders, or made anew from them."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from typing import TYPE_CHECKING

from qk_lightning.config.errors import ConfigError, Problem
from qk_lightning.tracking.mlflow_store import check_store, store_uri

if TYPE_CHECKING:
    from qk_lightning.tracking.rebuild import Deed

FAILED = 1


def track(options: argparse.Namespace) -> int:
    """Send what the view lacks, or rebuild it, or say what that would do.

    Args:
        options: the parsed command line.

    Returns:
        0, 1 where the store cannot be used.

    Raises:
        ConfigError: there is no such run, or no MLflow.
    """
    check_store()
    if options.action == "rebuild" and options.run != "all":
        fix = f"qk track sync {options.run}, or qk track rebuild"
        raise ConfigError(Problem("track rebuild", options.run, "no run: it looks at all", fix))
    print(f"MLflow store {store_uri()}", flush=True)
    from qk_lightning.tracking.mlflow_store import outages
    from qk_lightning.tracking.rebuild import rebuild
    from qk_lightning.tracking.sync import sync

    try:
        if options.action == "sync":
            deeds = sync(options.run, options.dry_run, _say)
        else:
            deeds = rebuild(options.dry_run, _say)
    except outages() as error:
        print(f"qk track: the store cannot be used: {error}", file=sys.stderr)
        return FAILED
    counts = Counter(deed.action for deed in deeds)
    verb = "would " if options.dry_run else ""
    shown = ", ".join(f"{verb}{action} {count}" for action, count in counts.items())
    print(f"{shown or 'no runs yet: qk fit laptop/stage1'}")
    if not options.dry_run and deeds:
        print("look at it: qk ui")
    return 0


def _say(deed: Deed) -> None:
    why = f"  ({deed.why})" if deed.why else ""
    print(f"{deed.action:<10} {deed.name}{why}", flush=True)
