"""What every part has in common: versions, wiring, weights on disk, sharding units.

Not here: how parts are put together (assembly) and how they are found (a name is a file).
A part's folder: config.json (architecture) + model.safetensors (weights), or the names diffusers
gives its own folders.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

CONFIG_FILE = "config.json"
WEIGHT_FILES = ("model.safetensors", "diffusion_pytorch_model.safetensors")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


class Part(LightningModule):
    """An interchangeable piece of a system: vlm, queries, connector, head, autoencoder, objective.

    The keyword-only constructor of a subclass is its config schema; it calls
    `self.save_hyperparameters()`, initialises at random, and works under `torch.device("meta")`.

    Attributes:
        version: Raised when a default that changes results changes; part of a run's identity.
        wired: Constructor arguments given by the assembly, never by YAML.
        paths: Constructor arguments that are input folders or files.
        forward_methods: Other ways into the part than `forward`, registered with FSDP.
        lora_targets: Suffixes of the linear layers that get LoRA when a config names none.
        idle: Ends of parameter names that get no gradient by design, so that nobody is warned.
    """

    version: int = 1
    wired: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    forward_methods: tuple[str, ...] = ()
    lora_targets: tuple[str, ...] = ()
    idle: tuple[str, ...] = ()

    def settings(self) -> dict[str, Any]:
        """Tell what decides this part's outputs besides its weights; where they lie does not.

        Returns:
            Constructor arguments without `paths`.
        """
        return {key: value for key, value in self.hparams.items() if key not in self.paths}

    def shard_units(self) -> list[nn.Module]:
        """Blocks that FSDP shards one by one; the part itself is the root.

        Returns:
            Modules inside this part, in call order.
        """
        return []

    def load_base(self) -> bool:
        """Load the pretrained weights that the constructor's `path` names.

        Returns:
            True if weights were loaded, False if the part has no `path`.

        Raises:
            ValueError: Keys or shapes in the file differ from the part's.
        """
        path = self.hparams.get("path")
        if path is None:
            return False
        folder = find_folder(path)
        if folder is None:
            raise ValueError(f"path: {path!r} is no folder; expected one with {CONFIG_FILE}.")
        self.load_folder(folder)
        return True

    def load_folder(self, folder: Path) -> None:
        """Load what `export` wrote, whatever `path` says.

        Args:
            folder: A folder of this part.

        Raises:
            ValueError: Keys or shapes in the file differ from the part's.
        """
        load_weights(self, read_weights(folder), origin=str(folder))

    def export(self, folder: Path) -> None:
        """Write config.json and model.safetensors, as `path` (or `load_weights`) reads them back.

        Args:
            folder: Created if missing.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        config = {"part": type(self).__name__, "version": self.version, **dict(self.hparams)}
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        write_weights(self, folder / WEIGHT_FILES[0])


def find_folder(path: str) -> Path | None:
    """Find the local folder that a `path` option names.

    Args:
        path: `builtin:<name>`, a folder (relative to the project root, or absolute), or a hub id.

    Returns:
        The folder, or None where `path` is no local folder but reads as a hub id (`org/name`).

    Raises:
        ValueError: Neither an existing folder nor a hub id.
    """
    from qk_lightning.config.paths import is_local, resolve_path

    if not is_local(path) and _HUB_ID.fullmatch(path):
        return None
    return resolve_path(path)


def read_config(folder: Path) -> dict[str, Any]:
    """Read a part folder's config.json.

    Args:
        folder: A part's folder.

    Returns:
        The decoded config.

    Raises:
        ValueError: The folder has no config.json, or one that is damaged.
    """
    file = Path(folder) / CONFIG_FILE
    if not file.is_file():
        raise ValueError(f"path: {str(folder)!r} has no {CONFIG_FILE}; give the folder of a part.")
    try:
        return dict(json.loads(file.read_text()))
    except (ValueError, TypeError) as error:
        raise ValueError(f"path: {file} is no JSON object ({error}); bring it back.") from error


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Read a part folder's safetensors, in one file or in shards with an index.

    Args:
        folder: A folder with one of `WEIGHT_FILES`, or its `<name>.index.json`.

    Returns:
        Name to tensor, in the file's dtypes, on the CPU.

    Raises:
        ValueError: No such file.
    """
    from safetensors.torch import load_file

    for name in WEIGHT_FILES:
        file = Path(folder) / name
        if file.is_file():
            return load_file(file)
        index = file.with_name(f"{name}.index.json")
        if index.is_file():
            shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
            return {k: v for shard in shards for k, v in load_file(file.with_name(shard)).items()}
    expected = " or ".join(WEIGHT_FILES)
    raise ValueError(f"path: {str(folder)!r} holds no weights; expected {expected}.")


def write_weights(module: nn.Module, file: Path) -> None:
    """Write a module's state as one safetensors file.

    Args:
        module: Parameters and saved buffers are written in their dtype.
        file: Target file; its folder exists.
    """
    from safetensors.torch import save_file

    state = {k: v.detach().cpu().clone().contiguous() for k, v in module.state_dict().items()}
    save_file(state, file, metadata={"format": "pt"})


def load_weights(module: nn.Module, state: Mapping[str, Tensor], *, origin: str = "") -> None:
    """Load a full state into a module, in the module's dtypes; a meta module becomes real.

    Args:
        module: Built eagerly or under `torch.device("meta")`.
        state: Name to tensor; float16 files fill float32 parameters.
        origin: Where the state came from, for the error.

    Raises:
        ValueError: Missing or unexpected names, other shapes, numbers that are not finite: all
            are listed.
    """
    own = module.state_dict()
    problems = [f"missing {k}" for k in own if k not in state]
    problems += [f"unexpected {k}" for k in state if k not in own]
    problems += [
        f"{k} has shape {tuple(state[k].shape)}, expected {tuple(own[k].shape)}"
        for k in own
        if k in state and state[k].shape != own[k].shape
    ]
    problems += [f"{k} holds nan or inf" for k in not_finite(state)]
    if problems:
        listing = "\n  ".join(problems)
        raise ValueError(f"weights of {origin or 'this state'} do not fit:\n  {listing}")
    cast = {k: v.to(own[k].dtype) for k, v in state.items()}
    module.load_state_dict(cast, assign=any(v.is_meta for v in own.values()))


def not_finite(state: Mapping[str, Tensor]) -> list[str]:
    """Name the tensors with a number that is not finite: training from them ends in nan.

    Args:
        state: Name to tensor; those on the meta device are passed over.

    Returns:
        Names.
    """
    numbers = {k: v for k, v in state.items() if v.is_floating_point() and not v.is_meta}
    return [k for k, v in numbers.items() if not v.isfinite().all()]


def check_architecture(
    part: type[Part], given: Mapping[str, Any], found: Mapping[str, Any], path: str
) -> None:
    """Refuse constructor arguments that contradict the folder they load from.

    Args:
        part: The part's class; its signature holds the defaults.
        given: Argument name to the value passed. A value at its default is not compared; one
            without a default (a wired one) always is.
        found: The same names as the folder's config.json has them.
        path: The folder, for the error.

    Raises:
        ValueError: Lists every contradicting key with its value and the folder's.
    """
    parameters = inspect.signature(part.__init__).parameters
    problems = [
        f"{key}: {_plain(value)!r}, but {path} says {_plain(found[key])!r}; leave it out"
        for key, value in given.items()
        if _plain(value) != _plain(parameters[key].default) and _plain(value) != _plain(found[key])
    ]
    if problems:
        raise ValueError("; ".join(problems))


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value


def weights_dtype(module: nn.Module) -> torch.dtype:
    """Tell in which precision a module computes: that of its first floating-point parameter.

    A part casts its inputs to it, so that neighbours may differ: a bfloat16 VLM, a float32 head.

    Args:
        module: A module with parameters; one that is not a unit of sharding of its own, since
            FSDP casts those apart.

    Returns:
        The dtype.
    """
    return next(p.dtype for p in module.parameters() if p.is_floating_point())


def is_meta(module: nn.Module) -> bool:
    """Say whether any parameter of the module is still without storage.

    Args:
        module: Any module.

    Returns:
        True if it was built under `torch.device("meta")` and not yet loaded.
    """
    return any(parameter.device == torch.device("meta") for parameter in module.parameters())
