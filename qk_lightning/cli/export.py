"""`qk export`: a finished run as one folder, with a model card."""

from __future__ import annotations

import argparse
import sys

from qk_lightning.config.export_target import check_target
from qk_lightning.config.exported_folder import ExportedFolder
from qk_lightning.config.paths import user_path


def export(options: argparse.Namespace) -> int:
    """Write the folder and say how it is used.

    Args:
        options: the parsed command line.

    Returns:
        0.
    """
    from qk_lightning.cli.draw import run_of

    folder = user_path(options.folder, "folder")
    check_target(folder, options.force)
    run = run_of(options.run)
    print(f"{run.name}: loading", file=sys.stderr, flush=True)  # torch takes a while
    from qk_lightning.api import exporting
    from qk_lightning.training.at_checkpoint import run_at

    with run_at(run, options.checkpoint) as chosen:
        how = {"lora": options.lora, "half": options.half, "force": options.force}
        exporting.export(chosen, folder, **how)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    weights = ExportedFolder(folder).identity
    print(f"{run.name} in {folder.resolve()}: {size / 2**20:.1f} MiB, weights {weights}")
    print(f"use it: qk generate {folder} --prompt ..., or `parent: {folder.resolve()}` in a preset")
    return 0
