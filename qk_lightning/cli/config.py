"""`qk config`: a resolved configuration with origins, an option explained, a file, a dry run."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from qk_lightning.cli.explain import explain
from qk_lightning.cli.write_config import as_yaml, write_config
from qk_lightning.config.chain import StagePlan, plan_chain
from qk_lightning.config.errors import ConfigError, Problem

__all__ = ["config", "explain", "lines_with_origins"]


def config(options: argparse.Namespace) -> int:
    """Print or write what `qk config` is asked for.

    Args:
        options: the parsed command line.

    Returns:
        0.

    Raises:
        ConfigError: --force without --write.
    """
    if options.force and not options.write:
        raise ConfigError(Problem("--force", None, "--write FILE", "add it, or leave --force out"))
    plans = plan_chain(options.preset, options.overrides)
    plan = plans[-1]
    if options.explain:
        print(explain(_stage_of(plans, options.explain).cfg, options.explain))
    elif options.write:
        for file in write_config(plans, Path(options.write), options.force):
            print(f"written: {file}")
        print(f"identity {plan.identity}; train it: qk fit {options.write}")
    elif options.dry_run:
        print(f"{plan.folder.name}: {plan.cfg.system.name}\n", flush=True)  # torch takes a while
        from qk_lightning.assembly.dry_run import dry_run

        print(dry_run(plan.cfg).describe())
    else:
        print("\n".join(lines_with_origins(plan.cfg, plan.origins)))
        print(f"\n# identity {plan.identity}, run folder {plan.folder.path}")
    return 0


def _stage_of(plans: Sequence[StagePlan], key: str) -> StagePlan:
    """Return the stage that a key such as `stage1.optimizer.lr` is addressed to."""
    named = [plan for plan in plans if plan.stage == key.partition(".")[0]]
    return named[0] if named and "." in key else plans[-1]


def lines_with_origins(cfg: DictConfig, origins: dict[str, str]) -> list[str]:
    """Write a configuration as YAML with the origin of each value as a comment.

    Args:
        cfg: the resolved configuration.
        origins: origin by dotted key.

    Returns:
        Lines.
    """
    lines: list[tuple[str, str]] = []
    _walk(OmegaConf.to_container(cfg), "", 0, origins, lines)
    width = min(56, max(len(text) for text, _ in lines))
    return [f"{text:<{width}}  # {origin}" if origin else text for text, origin in lines]


def _walk(
    node: Any, prefix: str, depth: int, origins: dict[str, str], lines: list[tuple[str, str]]
) -> None:
    for key, value in node.items():
        dotted = f"{prefix}{key}"
        indent = "  " * depth
        if isinstance(value, dict) and value:
            lines.append((f"{indent}{key}:", ""))
            _walk(value, f"{dotted}.", depth + 1, origins, lines)
        else:
            lines.append((f"{indent}{key}: {as_yaml(value)}", origins.get(dotted, "default")))
