"""A finished run as one folder for others: all parts, configurations, and a model card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from qk_lightning.api.runs import load_run
from qk_lightning.config.atomic import write_text
from qk_lightning.config.errors import ConfigError, Problem
from qk_lightning.config.export_target import check_choice, check_target
from qk_lightning.config.exported_folder import CARD, GRID, INDEX, LORA, ExportedFolder
from qk_lightning.config.paths import user_path
from qk_lightning.config.run_folder import RunFolder

if TYPE_CHECKING:
    from omegaconf import DictConfig


def export(
    run: str | RunFolder,
    folder: str | Path,
    *,
    lora: Literal["merge", "keep"] = "merge",
    half: bool = False,
    force: bool = False,
) -> Path:
    """Write a finished run as a folder that loads without it.

    `QueryKontextPipeline.from_pretrained`, `qk generate`, `qk evaluate` and `parent:` read it.

    Args:
        run: a run, its name, or a preset that was trained.
        folder: where to write: new or empty, or with `force` an earlier export.
        lora: `merge`, or `keep` the LoRA that the run itself trained beside its part, as peft's
            adapter folder.
        half: store float16, half the size and no longer the same to the bit.
        force: write over an earlier export.

    Returns:
        The folder.

    Raises:
        ConfigError: there is no such run, it has not finished or draws nothing, or the folder
            holds something else.
    """
    target = user_path(folder, "folder")
    check_choice(lora)
    check_target(target, force)
    found = load_run(run)
    if isinstance(found, ExportedFolder):
        raise ConfigError(Problem("run", found.name, "a run, not an exported folder", "copy it"))
    from qk_lightning.assembly.pipeline_folder import export_pipeline

    export_pipeline(found, target, lora, half, force, lambda made: _describe(found, made))
    return target


def _describe(run: RunFolder, folder: Path) -> None:
    """Add the card and the picture of samples."""
    from qk_lightning.tracking.model_card import model_card
    from qk_lightning.tracking.sample_grid import write_sample_grid

    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    apart = [f"`{part}{LORA}/`" for part, entry in index["parts"].items() if entry["lora"]]
    stored = f"weights stored {index['stored']}"
    stored += f", its LoRA apart in {', '.join(apart)}" if apart else ", LoRA merged"
    has_grid = write_sample_grid(folder / GRID, {run.name: run.samples})
    text = model_card(run, index["chain"], stored, _fingerprint(run.config), has_grid)
    write_text(folder / CARD, text)


def _fingerprint(cfg: DictConfig) -> str:
    """Hash the world's samples and pixels; "" where data or packages of it are not at hand."""
    from qk_lightning.assembly.build import open_world

    try:
        return open_world(cfg.data.world).fingerprint()
    except ConfigError:
        return ""
