"""Writing all parts of a run as one folder that loads anywhere; reading it is ExportedFolder's.

Not here: the model card (tracking/model_card.py), one part alone (export.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Literal

from omegaconf import DictConfig, OmegaConf

from qk_lightning import __version__
from qk_lightning.assembly.adapter_folder import write_adapter
from qk_lightning.assembly.build import families_of
from qk_lightning.assembly.export import halve
from qk_lightning.assembly.replay import replay
from qk_lightning.assembly.weights import is_lora_of, read_entries
from qk_lightning.config.atomic import aside, write_json, write_text
from qk_lightning.config.errors import ConfigError, Problem
from qk_lightning.config.export_target import check_choice, check_target
from qk_lightning.config.exported_folder import (
    CLASS_NAME,
    FORMAT,
    INDEX,
    LORA,
    RUN_CONFIG,
    ExportedFolder,
)
from qk_lightning.config.find_runs import parent_of
from qk_lightning.config.run_folder import RunFolder
from qk_lightning.parts.base import Part

PACKAGES = ("torch", "transformers", "diffusers", "peft", "safetensors")
KeepLora = Literal["merge", "keep"]
Finish = Callable[[Path], None]  # adds files to the folder before it takes its place


@dataclass(frozen=True)
class Origin:
    """What a pipeline's parts were made by.

    Args:
        config: the run's configuration as it was trained.
        run: its name, "" where it is not known.
        identity: its identity.
        chain: `run`, `stage` and `identity` of each run behind the parts, first ancestor first.
    """

    config: DictConfig
    run: str = ""
    identity: str = ""
    chain: list[dict[str, str]] = field(default_factory=list)


def export_pipeline(
    run: RunFolder,
    folder: Path,
    lora: KeepLora = "merge",
    half: bool = False,
    force: bool = False,
    finish: Finish | None = None,
) -> None:
    """Write a finished run's parts as a folder.

    Args:
        run: a run that draws, or an exported folder.
        folder: where to write; it appears whole or not at all.
        lora: `merge` adds what the run trained by LoRA to its part; `keep` writes it beside the
            part as peft's adapter folder. Updates of the run's ancestors are merged either way.
        half: store float16, half the size and no longer the same to the bit.
        force: write over an earlier export.
        finish: adds files.

    Raises:
        ConfigError: the run has not finished or draws nothing, there is no LoRA to keep, or the
            folder holds something else.
    """
    check_choice(lora)
    check_target(folder, force)
    cfg = run.config
    families = families_of(cfg)
    if "head" not in families:
        fix = f"write one part: qk runs export {run.name} PART FOLDER"
        raise ConfigError(Problem("run", run.name, "a run that draws pictures", fix))
    entries = read_entries(run)
    apart = [entry for entry in entries if lora == "keep" and is_lora_of(entry, run)]
    if lora == "keep" and not apart:
        expected = "merge: the run itself trained no LoRA"
        raise ConfigError(Problem("--lora", lora, expected, "leave it out"))
    root = run.path.parent
    parts = replay(cfg, [entry for entry in entries if entry not in apart], families, root)
    kept = {entry.part: root / entry.file for entry in apart}
    write_pipeline(folder, origin_of(run), parts, kept, half, finish)


def write_pipeline(
    folder: Path,
    origin: Origin,
    parts: Mapping[str, Part],
    apart: Mapping[str, Path] | None = None,
    half: bool = False,
    finish: Finish | None = None,
) -> None:
    """Write parts, configuration and index aside, then put the folder in its place.

    Args:
        folder: where to write; what stands there is replaced.
        origin: what made them.
        parts: part by family, without adapters.
        apart: a LoRA that is not merged, by family.
        half: store float16.
        finish: adds files.
    """
    apart = apart or {}
    with aside(folder) as temporary:
        temporary.mkdir()
        for family, part in parts.items():
            if part.state_dict():
                part.export(temporary / family)
            if family in apart:
                write_adapter(part, apart[family], temporary / f"{family}{LORA}", family)
        if half:
            halve(temporary.rglob("*.safetensors"))
        write_json(temporary / INDEX, _index(origin, parts, apart, half))
        write_text(temporary / RUN_CONFIG, OmegaConf.to_yaml(origin.config))
        if finish is not None:
            finish(temporary)
        _let_others_read(temporary.rglob("*"))


def _index(
    origin: Origin, parts: Mapping[str, Part], apart: Iterable[str], half: bool
) -> dict[str, object]:
    return {
        "_class_name": CLASS_NAME,
        "format": FORMAT,
        "versions": {
            "qk_lightning": __version__,
            **{package: metadata.version(package) for package in PACKAGES},
        },
        "run": origin.run,
        "identity": origin.identity,
        "chain": origin.chain,
        "stored": "float16" if half else "as trained",
        "parts": {
            family: {
                "name": str(origin.config[family].name),
                "class": f"{type(part).__module__}:{type(part).__name__}",
                "weights": bool(part.state_dict()),
                "lora": family in apart,
            }
            for family, part in parts.items()
        },
    }


def _let_others_read(paths: Iterable[Path]) -> None:
    for path in paths:  # safetensors writes for the owner alone
        if path.is_file():
            path.chmod(0o644)


def origin_of(run: RunFolder) -> Origin:
    """Read what a run's parts were made by.

    Args:
        run: a finished run, or an exported folder.
    """
    if isinstance(run, ExportedFolder):
        identity = str(run.index.get("identity") or "")
        return Origin(run.recorded_config, run.origin, identity, run.chain)
    return Origin(run.config, run.name, run.identity, chain_of(run))


def chain_of(run: RunFolder) -> list[dict[str, str]]:
    """List a run and the runs that it continues.

    Args:
        run: the last of them.

    Returns:
        `run`, `stage` and `identity` of each, first ancestor first; one whose folder is not at
        hand has no stage, and what came before it is not known.
    """
    chain = [{"run": run.name, "stage": str(run.config.stage), "identity": run.identity}]
    recorded = run.read_json("parent.json")
    if "chain" in recorded:  # of an exported folder
        return [*recorded["chain"], *chain]
    parent = parent_of(run)
    if parent is None:
        return chain
    if not parent.has_config:
        lost = {"run": parent.name, "stage": "", "identity": parent.identity}
        return [lost, *chain]
    return [*chain_of(parent), *chain]
