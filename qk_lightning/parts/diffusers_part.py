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
    CONFIG_FILE,
    WEIGHT_FILES,
    Part,
    check_architecture,
    find_folder,
    load_weights,
    read_config,
    read_weights,
)

# Which part reads a folder of which class, to say so where another one was asked for it.
PART_OF = {
    "FluxTransformer2DModel": "head: {name: flux}",
    "SanaTransformer2DModel": "head: {name: sana}",
    "SD3Transformer2DModel": "head: {name: sd3}",
    "QwenImageTransformer2DModel": "head: {name: qwen_image}",
    "UNet2DConditionModel": "head: {name: sd15}",
    "AutoencoderKL": "autoencoder: {name: kl}",
    "AutoencoderDC": "autoencoder: {name: dc}",
    "AutoencoderKLQwenImage": "autoencoder: {name: qwen_image}",
    "AutoencoderTiny": "autoencoder: {name: tiny}",
}
PIPELINE_FILE = "model_index.json"
# Where a config.json says what it is of: diffusers, transformers, this package.
CLASS_KEYS = ("_class_name", "model_type", "part")


class DiffusersPart(Part):
    """A part whose weights are those of one diffusers model, held as `self.model`.

    Where a constructor has a `subfolder`, `path` may name a whole pipeline, and the model is in
    that folder of it.

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
            subfolder: Folder of the model in that of `path`.

        Returns:
            A diffusers config.

        Raises:
            ValueError: An argument that is not at its default contradicts the folder; the folder
                holds another model, or none.
        """
        if path is None:
            if subfolder is not None:
                raise ValueError(f"subfolder: {subfolder!r} without a path; set path, or neither.")
            return {**fixed, **{cls.config_names[key]: value for key, value in given.items()}}
        folder = find_folder(path)
        if folder is None:
            config = model_class.load_config(path, subfolder=subfolder)
        else:
            config = read_config(_model_folder(folder, subfolder, model_class.__name__))
        _check_class(config, model_class.__name__, path)
        said = {key: value for key, value in config.items() if not key.startswith("_")}
        config = {**_defaults(model_class), **said}
        found = {key: config[name] for key, name in cls.config_names.items()}
        check_architecture(cls, given, found, path)
        return config

    def settings(self) -> dict[str, Any]:
        """Tell what decides this part's outputs besides its weights; where they lie does not.

        Returns:
            The diffusers config, and the constructor arguments that it does not hold.
        """
        held = {*self.config_names, "subfolder"}
        own = {k: v for k, v in super().settings().items() if k not in held}
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
        folder, subfolder = find_folder(path), self.hparams.get("subfolder")
        if folder is None:
            self._load_from(path, subfolder)
        else:
            self._load_from(str(folder / (subfolder or "")))
        return True

    def load_folder(self, folder: Path) -> None:
        """Load what `export` wrote, whatever `path` says.

        Args:
            folder: A folder of this part.

        Raises:
            ValueError: Missing or unexpected names; all are listed.
        """
        self._load_from(str(folder))

    def fit_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Adapt weights that were read to this part; a part may fill in what it alone has.

        Args:
            state: Name to tensor, as the file has them.

        Returns:
            Name to tensor, as `self.model` wants them.
        """
        return state

    def _load_from(self, source: str, subfolder: str | None = None) -> None:
        if (Path(source) / WEIGHT_FILES[0]).is_file():
            state = read_weights(Path(source))
        else:
            state = self._read_by_diffusers(source, subfolder)
        load_weights(self.model, self.fit_state(state), origin=source)

    def _read_by_diffusers(self, path: str, subfolder: str | None) -> dict[str, Tensor]:
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


def _model_folder(folder: Path, subfolder: str | None, wanted: str) -> Path:
    """Find the model's own folder; a whole pipeline's is told which of its folders to name."""
    found = folder / (subfolder or "")
    if not (found / CONFIG_FILE).is_file() and (folder / PIPELINE_FILE).is_file():
        inside = [file.parent for file in sorted(folder.glob(f"*/{CONFIG_FILE}"))]
        names = [own.name for own in inside if read_config(own).get("_class_name") == wanted]
        fix = f"set subfolder: {names[0]}" if names else f"it has no {wanted}; choose another"
        raise ValueError(f"path: {str(found)!r} is no model, {str(folder)!r} a pipeline; {fix}.")
    return found


def _check_class(config: Mapping[str, Any], wanted: str, path: str) -> None:
    """See that a config is of the class wanted, else name the part that reads it."""
    name = next((config[key] for key in CLASS_KEYS if config.get(key)), None)
    if name != wanted:
        other = PART_OF.get(str(name))
        fix = f"write `{other}`, or name another folder" if other else "name another folder"
        holds = f"a {name}" if name else f"no {CLASS_KEYS[0]} in its {CONFIG_FILE}"
        raise ValueError(f"path: {path!r} holds {holds}, expected {wanted}; {fix}.")


def _defaults(model_class: Any) -> dict[str, Any]:
    import inspect

    parameters = inspect.signature(model_class.__init__).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}
