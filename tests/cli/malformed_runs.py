"""Broken run folders: stage1 and stage2 of the tiny chain were trained, then something happened."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from malformed_case import Case
from safetensors.torch import save_file

DRAW = "generate stage2 --prompt x --output ROOT/out"


def run_of(root: Path, stage: str) -> Path:
    """The one run folder of a stage."""
    (folder,) = (root / "runs").glob(f"{stage}-*")
    return folder


def broken(
    name: str, stage: str, change: Callable[[Path], object], *says: str, words: str = DRAW
) -> Case:
    """A command after something happened to a run."""
    return Case(name, words, says, prepare=partial(on_run, stage, change))


def on_run(stage: str, change: Callable[[Path], object], root: Path) -> None:
    """Do something to a stage's run."""
    change(run_of(root, stage))


def text(name: str, content: str) -> Callable[[Path], None]:
    """Overwrite a file of the run."""
    return lambda run: (run / name).write_text(content) and None


def gone(name: str) -> Callable[[Path], None]:
    """Delete a file or a folder of the run."""

    def delete(run: Path) -> None:
        """Either kind."""
        path = run / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return delete


def weights_json(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Change weights.json."""

    def rewrite(run: Path) -> None:
        """Read, change, write."""
        content = json.loads((run / "weights.json").read_text())
        change(content)
        (run / "weights.json").write_text(json.dumps(content))

    return rewrite


def unfinished(run: Path) -> None:
    """As a run is that was stopped in training."""
    for name in ("weights.json", "weights", "status.json"):
        gone(name)(run)
    (run / "status.json").write_text('{"state": "stopped", "step": 0, "max_steps": 1}')


def renamed(run: Path) -> None:
    """Give the folder another identity."""
    run.rename(run.with_name("stage1-0000000000"))


def held(run: Path) -> None:
    """Lock the run as this living process."""
    entry = {"host": socket.gethostname(), "pid": str(os.getpid()), "token": "mine"}
    (run / ".lock").write_text(json.dumps(entry))


def other_width(run: Path) -> None:
    """Put a LoRA of another width in the place of the run's, digest and all."""
    from qk_lightning.config.identity import fingerprint

    file = run / "weights" / "vlm.lora.safetensors"
    layer = "model.model.language_model.layers.0.self_attn.q_proj"
    state = {f"{layer}.lora_A.default.weight": torch.zeros(2, 48),
             f"{layer}.lora_B.default.weight": torch.zeros(48, 2)}  # fmt: skip
    save_file(state, file, metadata={"lora": '{"rank": 2, "alpha": 2}'})
    for folder in run.parent.glob("stage*"):
        content = json.loads((folder / "weights.json").read_text())
        for entry in content["entries"]:
            entry["sha256"] = fingerprint(file) if "lora" in entry["file"] else entry["sha256"]
        (folder / "weights.json").write_text(json.dumps(content))


def newer_option(run: Path) -> None:
    """Add an option that this version does not have."""
    file = run / "config.yaml"
    file.write_text(file.read_text().replace("connector:\n", "connector:\n  num_gates: 3\n"))


def wider(run: Path) -> None:
    """Edit the configuration of a finished run: its identity no longer fits."""
    file = run / "config.yaml"
    file.write_text(file.read_text().replace("num_queries: 2", "num_queries: 3"))


# As the chain was trained, but for the head of its last stage.
TRAIN = "fit tiny/stage2 all.max_steps=1 head.num_layers=2"

CASES = [
    broken("a config cut short", "stage2", text("config.yaml", "name: [stage2"),
           "config.yaml", "bring the file back"),
    broken("a config of a list", "stage2", text("config.yaml", "- 1\n"),
           "config.yaml", "bring the file back"),
    broken("no config", "stage2", gone("config.yaml"), "run = 'stage2'", "known: stage1-"),
    broken("an option of a newer version", "stage2", newer_option,
           "connector.num_gates", "an option of mlp"),
    broken("an edited configuration", "stage2", wider, "queries", "(2, 32), expected (3, 32)"),
    broken("no weights.json", "stage2", gone("weights.json"),
           "run = 'stage2-", "qk runs rm stage2-"),
    broken("weights.json cut short", "stage2", text("weights.json", '{"format": 1, "ent'),
           "weights.json", "train the run again"),
    broken("weights.json of no list", "stage2", text("weights.json", "[1, 2]"),
           "weights.json", "train the run again"),
    broken("weights.json of a newer version", "stage2", weights_json(lambda c: c.update(format=9)),
           "format 9", "update qk_lightning"),
    broken("weights.json with a newer step", "stage2",
           weights_json(lambda c: c["entries"][0].update(scale=1)), "weights.json", "update"),
    broken("no weights", "stage2", gone("weights"), "weights of run stage2-", "train it again"),
    broken("no weights of the parent", "stage1", gone("weights"), "stage1-", "train it again"),
    broken("weights that are others", "stage2",
           lambda run: (run / "weights/head/config.json").write_text("{}"),
           "stage2-", "an unchanged file", "train the run again"),
    broken("a LoRA of another width", "stage1", other_width, "vlm", "(48, 48)"),
    broken("an unfinished run", "stage2", unfinished, "run = 'stage2-", "it is stopped"),
    broken("a run that was renamed", "stage1", renamed, "stage1-", "bring the folder"),
    broken("export of an unfinished run", "stage2", unfinished, "a finished run", "train it",
           words="runs export stage2 head ROOT/out"),
    broken("scores of an unfinished run", "stage2", unfinished, "a finished run", "train it",
           words="evaluate stage2 avatars --limit 2"),
    broken("removing a run in use", "stage2", held, "run = 'stage2-", "stop it first",
           words="runs rm stage2"),
    broken("a child of lost weights", "stage1", gone("weights"), "stage1-", "train it again",
           words=TRAIN),
    broken("a child of a damaged list", "stage1", text("weights.json", "{"), "weights.json",
           "train the run again", words=TRAIN),
]  # fmt: skip
