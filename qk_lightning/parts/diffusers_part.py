"""A part around one diffusers model: architecture and weights in diffusers' own folder format.

Not here: any architecture. A folder that diffusers saved loads here, and what is exported here
loads in diffusers.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from qk_lightning.parts.base import (
    WEIGHT_FILES,
    Part,
    check_architecture,
    find_folder,
    load_weights,
    read_config,
    read_weights,
)


class DiffusersPart(Part):
    """A part whose weights are those of one diffusers model, held as `self.model`.

    Attributes:
        config_names: Constructor argument to the name diffusers' config has for it.
    """

    paths = ("path",)
    config_names: ClassVar[dict[str, str]] = {}
    model: nn.Module

    @classmethod
    def read_architecture(
        cls,
        model_class: Any,
        path: str | None,
        given: Mapping[str, Any],
        fixed: Mapping[str, Any],
        subfolder: str | None = None,
    ) -> dict[str, Any]:
        """Find the diffusers config: from the folder that `path` names, else from the arguments.

        Args:
            model_class: The diffusers class.
            path: As in the constructor; None builds from the arguments.
            given: Constructor argument to its value.
            fixed: Entries of diffusers' config that are not options here.
            subfolder: Folder inside `path`, such as `vae` in a whole pipeline's.

        Returns:
            A diffusers config.

        Raises:
            ValueError: An argument that is not at its default contradicts the folder.
        """
        if path is None:
            return {**fixed, **{cls.config_names[key]: value for key, value in given.items()}}
        folder = _find_subfolder(path, subfolder)
        if folder is None:
            config = model_class.load_config(path, subfolder=subfolder)
        else:
            config = read_config(folder)
        name = config.get("_class_name", model_class.__name__)
        if name != model_class.__name__:
            raise ValueError(f"path: {path!r} holds a {name}, expected {model_class.__name__}.")
        config = {key: value for key, value in config.items() if not key.startswith("_")}
        defaults = dict(_defaults(model_class))
        found = {key: config.get(n, defaults[n]) for key, n in cls.config_names.items()}
        check_architecture(cls, given, found, path)
        return config

    def settings(self) -> dict[str, Any]:
        """Tell what decides this part's outputs besides its weights; where they lie does not.

        Returns:
            The diffusers config, and the constructor arguments that it does not hold.
        """
        left_out = (*self.config_names, "subfolder")
        own = {k: v for k, v in super().settings().items() if k not in left_out}
        config = {k: v for k, v in self.model.config.items() if not k.startswith("_")}
        return {**own, "config": config}

    def load_base(self) -> bool:
        """Load the weights that `path` names: a folder or a hub id, safetensors only.

        Returns:
            True if weights were loaded, False if the part has no `path`.

        Raises:
            ValueError: Missing or unexpected names; all are listed.
        """
        path = self.hparams.get("path")
        if path is None:
            return False
        subfolder = self.hparams.get("subfolder")
        folder = _find_subfolder(path, subfolder)
        if folder is None:
            load_weights(self.model, self._read_by_diffusers(path, subfolder), origin=path)
        else:
            self._load_from(str(folder))
        return True

    def load_folder(self, folder: Path) -> None:
        """Load what `export` wrote, whatever `path` says.

        Args:
            folder: A folder of this part.

        Raises:
            ValueError: Missing or unexpected names; all are listed.
        """
        self._load_from(str(folder))

    def _load_from(self, source: str) -> None:
        if (Path(source) / WEIGHT_FILES[0]).is_file():
            state = read_weights(Path(source))
        else:
            state = self._read_by_diffusers(source)
        load_weights(self.model, state, origin=source)

    def _read_by_diffusers(self, path: str, subfolder: str | None = None) -> dict[str, Tensor]:
        """Read through from_pretrained: it knows shards, the hub, and older names of weights."""
        loaded, info = type(self.model).from_pretrained(
            path, subfolder=subfolder, use_safetensors=True, output_loading_info=True
        )
        problems = [f"missing {key}" for key in info["missing_keys"]]
        problems += [f"unexpected {key}" for key in info["unexpected_keys"]]
        if problems:
            listing = "\n  ".join(problems)
            raise ValueError(f"weights of {path} do not fit:\n  {listing}")
        return loaded.state_dict()

    def export(self, folder: Path) -> None:
        """Write config.json and the weights as diffusers' save_pretrained does.

        Args:
            folder: Created if missing.
        """
        self.model.save_pretrained(str(folder), safe_serialization=True)


def _find_subfolder(path: str, subfolder: str | None) -> Path | None:
    folder = find_folder(path)
    return folder / subfolder if folder is not None and subfolder else folder


def _defaults(model_class: Any) -> dict[str, Any]:
    import inspect

    parameters = inspect.signature(model_class.__init__).parameters.values()
    return {p.name: p.default for p in parameters if p.name != "self"}
