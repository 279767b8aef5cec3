"""qk_lightning: ablations of unified image generation and editing, composed from YAML.

What the command line does is a function here; nothing is imported before it is used. The block
for type checkers and `_EXPORTS` say the same (a test compares them).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qk_lightning.api.claiming import judge_claims as judge_claims
    from qk_lightning.api.claiming import run_claims as run_claims
    from qk_lightning.api.comparison import Comparison as Comparison
    from qk_lightning.api.drawing import generate as generate
    from qk_lightning.api.exporting import export as export
    from qk_lightning.api.looking import dry_run as dry_run
    from qk_lightning.api.looking import explain as explain
    from qk_lightning.api.looking import show_world as show_world
    from qk_lightning.api.pictures import picture_grid as picture_grid
    from qk_lightning.api.runs import Run as Run
    from qk_lightning.api.runs import load_run as load_run
    from qk_lightning.api.scoring import evaluate as evaluate
    from qk_lightning.api.sweeping import list_sweeps as list_sweeps
    from qk_lightning.api.sweeping import report as report
    from qk_lightning.api.sweeping import sweep as sweep
    from qk_lightning.api.training import describe_plan as describe_plan
    from qk_lightning.api.training import fit as fit
    from qk_lightning.config.compose import compose as compose
    from qk_lightning.config.errors import ConfigError as ConfigError
    from qk_lightning.config.find_runs import list_runs as list_runs
    from qk_lightning.pipeline import QueryKontextPipeline as QueryKontextPipeline
    from qk_lightning.sweeps.plan import plan_sweep as plan_sweep

__version__ = "0.1.0"

_EXPORTS = {
    "judge_claims": "qk_lightning.api.claiming",
    "run_claims": "qk_lightning.api.claiming",
    "Comparison": "qk_lightning.api.comparison",
    "generate": "qk_lightning.api.drawing",
    "export": "qk_lightning.api.exporting",
    "dry_run": "qk_lightning.api.looking",
    "explain": "qk_lightning.api.looking",
    "show_world": "qk_lightning.api.looking",
    "picture_grid": "qk_lightning.api.pictures",
    "Run": "qk_lightning.api.runs",
    "load_run": "qk_lightning.api.runs",
    "evaluate": "qk_lightning.api.scoring",
    "list_sweeps": "qk_lightning.api.sweeping",
    "report": "qk_lightning.api.sweeping",
    "sweep": "qk_lightning.api.sweeping",
    "describe_plan": "qk_lightning.api.training",
    "fit": "qk_lightning.api.training",
    "compose": "qk_lightning.config.compose",
    "ConfigError": "qk_lightning.config.errors",
    "list_runs": "qk_lightning.config.find_runs",
    "QueryKontextPipeline": "qk_lightning.pipeline",
    "plan_sweep": "qk_lightning.sweeps.plan",
}
__all__ = ["__version__", *_EXPORTS]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    if name not in _EXPORTS:
        raise AttributeError(f"module 'qk_lightning' has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
