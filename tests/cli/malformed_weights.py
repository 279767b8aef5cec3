"""Wrong folders of weights. The VLM of the tiny presets is copied and then broken.

What only reading all of the weights can show is found when the run has begun: its folder then
says that it failed, and nothing else is new.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from malformed_case import Case
from safetensors.torch import load_file, save_file

WEIGHTS = "model.safetensors"
FAILED = ("runs/stage1-", "runs/cache")
NORM = "model.norm.weight"  # as the file has it


def vlm(name: str, change: Callable[[Path], object], *says: str, new: tuple[str, ...] = ()) -> Case:
    """A copy of the VLM at `ROOT/vlm` with something changed."""
    words = ("fit", "tiny/stage1", "vlm.path=ROOT/vlm")
    return Case(name, words, ("vlm", "ROOT/vlm", *says), prepare=partial(on_vlm, change), new=new)


def on_vlm(change: Callable[[Path], object], root: Path) -> None:
    """Change the copy of the VLM that the test made."""
    change(root / "vlm")


def path(name: str, option: str, *says: str) -> Case:
    """A `path` that leads to no weights of the part."""
    return Case(name, ("fit", "tiny/stage1", option), says)


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    """Change the weights themselves."""

    def rewrite(folder: Path) -> None:
        """Read, change, write."""
        state = load_file(folder / WEIGHTS)
        change(state)
        save_file(state, folder / WEIGHTS, metadata={"format": "pt"})

    return rewrite


def cut(folder: Path) -> None:
    """Keep the first 2,000 bytes."""
    file = folder / WEIGHTS
    file.write_bytes(file.read_bytes()[:2000])


def pickled(folder: Path) -> None:
    """Write the weights as torch.save does, and in no other way."""
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()


def half_a_shard(folder: Path) -> None:
    """Name a second file that is not there."""
    state = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).rename(folder / "model-1.safetensors")
    files = dict.fromkeys(state, "model-1.safetensors") | {NORM: "model-2.safetensors"}
    index = {"metadata": {}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def config(**changes: object) -> Callable[[Path], None]:
    """Change config.json."""

    def rewrite(folder: Path) -> None:
        """Read, change, write."""
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return rewrite


def codec(root: Path) -> None:
    """Write a linear codec with a number that is none."""
    from qk_lightning.parts.autoencoders.linear import Linear

    part = Linear(patch=8, latent_channels=4)
    part.encoder.weight.data[0, 0] = float("nan")
    part.export(root / "codec")


CASES = [
    path("a path of nothing", "vlm.path=nothing", "vlm.path = 'nothing'", "give an absolute path"),
    path("no such builtin", "vlm.path=builtin:laptop_vln", "builtin:laptop_vln", "did you mean"),
    path("no such model on the hub", "vlm.path=nobody/nothing", "vlm.path = 'nobody/nothing'",
         "give a folder"),
    path("a codec for a VLM", "vlm.path=builtin:laptop_codec", "laptop_codec", "model_type"),
    path("an autoencoder of nothing", "autoencoder.path=ROOT/gone", "autoencoder.path", "path"),
    vlm("no config.json", lambda f: (f / "config.json").unlink(), "has no config.json"),
    vlm("a broken config.json", lambda f: (f / "config.json").write_text("{"), "no JSON",
        "bring it back"),
    vlm("a list for a config.json", lambda f: (f / "config.json").write_text("[5]"), "no JSON"),
    vlm("another model's config.json", config(model_type="bert"), "'bert'", "another vlm"),
    vlm("no tokenizer", lambda f: [p.unlink() for p in f.glob("*token*")], "a tokenizer", "copy"),
    vlm("no preprocessor", lambda f: (f / "preprocessor_config.json").unlink(), "preproc", "copy"),
    vlm("cut weights", cut, WEIGHTS, "copy or fetch the file again"),
    vlm("a shard that is not", half_a_shard, "model-2.safetensors: missing", "copy or fetch"),
    vlm("a pickle", pickled, "pytorch_model.bin", "only safetensors are read"),
    vlm("weights of another shape", tensors(lambda s: s.update({NORM: torch.zeros(7)})),
        "norm.weight", "name a whole folder", new=FAILED),
    vlm("a missing tensor", tensors(lambda s: s.pop(NORM)), "norm.weight", "missing", new=FAILED),
    vlm("a tensor too many", tensors(lambda s: s.update(extra=torch.zeros(2))), "extra",
        "unexpected", new=FAILED),
    vlm("weights of nan", tensors(lambda s: s[NORM].fill_(float("nan"))), "norm.weight",
        "nan_or_inf", new=FAILED),
    Case("a codec of nan", ("fit", "tiny/stage1",
         "autoencoder={name: linear, path: ROOT/codec, latent_channels: 4}"),
         ("autoencoder.path", "encoder.weight holds nan"), prepare=codec, new=FAILED),
]  # fmt: skip
