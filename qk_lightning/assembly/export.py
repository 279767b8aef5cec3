"""Taking one part out of a finished run, as a folder that `path:` reads."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from qk_lightning.assembly.build import families_of
from qk_lightning.assembly.replay import replay
from qk_lightning.assembly.weights import read_entries
from qk_lightning.config.atomic import aside, write_text
from qk_lightning.config.errors import ConfigError, Problem, did_you_mean
from qk_lightning.config.paths import check_folder
from qk_lightning.config.run_folder import RunFolder
from qk_lightning.parts.base import not_finite


def export_part(run: RunFolder, family: str, folder: Path, half: bool = True) -> None:
    """Write a part of a run with its LoRA merged, and a card that says where it comes from.

    Args:
        run: a finished run.
        family: the part, such as `vlm` or `head`.
        folder: where to write; it must not exist.
        half: store float16, half the size.

    Raises:
        ConfigError: the run has no such part, or the folder exists.
    """
    cfg = run.config
    families = families_of(cfg)
    if family not in families:
        problem = Problem("part", family, f"a part of {run.name}", did_you_mean(family, families))
        raise ConfigError(problem)
    if folder.exists():
        raise ConfigError(
            Problem("folder", str(folder), "a folder that does not exist", "name another")
        )
    check_folder("folder", folder)
    part = replay(cfg, read_entries(run), families, run.path.parent)[family]
    with aside(folder) as temporary:
        part.export(temporary)
        if half:
            halve(temporary.glob("*.safetensors"))
        write_text(temporary / "CARD.md", card(run, family))
        write_text(temporary / "run.yaml", OmegaConf.to_yaml(cfg))
        for file in temporary.iterdir():
            file.chmod(0o644)  # safetensors writes for the owner alone


def halve(files: Iterable[Path]) -> None:
    """Store files of weights in float16.

    Args:
        files: safetensors, rewritten in place.

    Raises:
        ConfigError: a number is too large for float16.
    """
    for file in list(files):
        state = {name: _half(tensor) for name, tensor in load_file(file).items()}
        if large := not_finite(state):
            fix = "store it as it was trained: leave --half out"
            raise ConfigError(Problem("half", large[0], "numbers up to 65504", fix))
        save_file(state, file, metadata={"format": "pt"})


def _half(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.half() if tensor.is_floating_point() else tensor


def card(run: RunFolder, family: str) -> str:
    """Say how a part was made: command, identity, data, hardware and scores.

    Args:
        run: the finished run.
        family: the part.

    Returns:
        Markdown.
    """
    cfg, status = run.config, run.status
    provenance = run.read_json("provenance.json")  # {} where it is lost: the part is not
    hardware = "unknown"
    if provenance:
        hardware = f"{provenance['cpu']['model']}, {provenance['threads']} thread(s)"
    counts = run.read_json("parameters.json").get(family, {})
    scores = {k: v for k, v in run.last_metrics().items() if k.startswith(("val/", "eval/"))}
    lines = [
        f"# {run.name}: {family}",
        "",
        f"{counts.get('total', 0):,} parameters, trained by qk_lightning itself.",
        "",
        "- command: `qk fit run.yaml`, the configuration beside this card",
        f"- configuration identity: `{run.identity}`",
        f"- data: `{json.dumps(OmegaConf.to_container(cfg.data.world))}`",
        f"- steps: {cfg.trainer.max_steps}, global batch {cfg.trainer.global_batch_size}",
        f"- hardware: {hardware}",
        f"- time: {status.get('seconds', 0):.0f} s",
        f"- finished: {status.get('finished', '')}",
        "",
        "Scores on the validation split, as the run measured them:",
        "",
        *[f"- {name}: {value:.4g}" for name, value in sorted(scores.items())],
        "",
    ]
    if "avatars" in (cfg.data.world.name, *cfg.data.world.get("worlds", ())):
        lines.append("Trained on art in the style `micah` (CC BY 4.0), see CREDITS.md.")
    return "\n".join(lines) + "\n"
