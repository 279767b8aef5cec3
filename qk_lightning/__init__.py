"""qk_lightning: ablations of unified image generation and editing, composed from YAML.

What the command line does is a function here; nothing is imported before it is used.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_EXPORTS = {
    "compose": "qk_lightning.config.compose",
    "plan_chain": "qk_lightning.config.chain",
    "find_run": "qk_lightning.config.run_folder",
    "list_runs": "qk_lightning.config.run_folder",
    "ConfigError": "qk_lightning.config.errors",
    "run_chain": "qk_lightning.sweeps.execute",
    "plan_sweep": "qk_lightning.sweeps.plan",
    "run_sweep": "qk_lightning.sweeps.run",
    "QueryKontextPipeline": "qk_lightning.pipeline",
}
__all__ = ["__version__", *_EXPORTS]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    if name not in _EXPORTS:
        raise AttributeError(f"module 'qk_lightning' has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
