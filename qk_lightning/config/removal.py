"""What `qk runs rm` may delete: a run of this root, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

from qk_lightning.config.errors import ConfigError, Problem
from qk_lightning.config.paths import project_root, runs_root

NAME = re.compile(r".+-[0-9a-f]{10}")
# A folder of somebody else's may hold a config.yaml; one of these beside it is ours.
RUN_FILES = (
    "status.json", "provenance.json", "weights.json", "parameters.json", "sources.json",
    "parent.json", "overrides.json", "metrics.csv", "log.txt", "error.txt",
)  # fmt: skip
ELSE = "delete it by hand if you mean it"


def check_removable(folder: Path) -> None:
    """See that a folder is a run under `runs/` before it is deleted.

    Args:
        folder: what is to be deleted.

    Raises:
        ConfigError: it is a link, holds the root or the current folder, or is no run of this root.
    """
    if folder.is_symlink():
        fix = f"remove what it points to ({folder.resolve()}) by hand, then the link: rm {folder}"
        raise ConfigError(Problem("run", str(folder), "a run, not a link to one", fix))
    whole = folder.resolve()
    for held, name in ((project_root().resolve(), "the root"), (Path.cwd(), "where you are")):
        if held == whole or whole in held.parents:
            fix = "name a run (qk runs lists them), from a folder outside of it"
            expected = f"a folder that does not hold {held} ({name})"
            raise ConfigError(Problem("run", str(folder), expected, fix))
    root = runs_root().resolve()
    if whole.parent != root:
        raise ConfigError(Problem("run", str(folder), f"a run folder right under {root}", ELSE))
    if not NAME.fullmatch(whole.name):
        expected = "a run folder, <name>-<10 hexadecimal digits>"
        raise ConfigError(Problem("run", str(folder), expected, ELSE))
    found = {path.name for path in whole.glob("*")}
    if "config.yaml" not in found or not found.intersection(RUN_FILES):
        expected = f"a run folder, with config.yaml and one of {', '.join(RUN_FILES[:3])}, ..."
        raise ConfigError(Problem("run", str(folder), expected, ELSE))
