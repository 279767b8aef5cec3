"""A part that is a transformers checkpoint: opened by its config.json, loaded, written again.

Not here: what a VLM does with it (`base.py`), and what goes wrong silently on the way into
memory (`checkpoint.py`, `checkpoint_files.py`).
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from qk_lightning.parts.base import Part, find_folder
from qk_lightning.parts.vlms import checkpoint, checkpoint_files


class PretrainedPart(Part):
    """Weights and tokenizer of a checkpoint.

    A subclass's constructor calls `self.save_hyperparameters()`, then `self.open_checkpoint()`.
    Its options are at least `path`, `attention`, `gradient_checkpointing` and `dtype`.

    Attributes:
        model_type: As in the checkpoint's config.json.
        auto_class: The class of transformers that builds it.
        reads_images: Whether images may be asked about; a configuration with tasks that show
            some is refused where it is False.
        model: transformers' class.
        hidden_size: D.
        num_layers: Of the language model.
    """

    model_type: str = ""
    auto_class: str = "AutoModelForImageTextToText"
    reads_images: bool = True

    def open_checkpoint(self) -> None:
        """Build the model from its config.json, without the weights.

        Raises:
            ValueError: A folder that is not a checkpoint, or one of another model.
        """
        options = self.hparams
        folder = find_folder(options.path)
        self.source = options.path if folder is None else str(folder)
        self._has_weights = folder is None or checkpoint_files.holds_weights(folder)
        config = self.read_config()
        self.hidden_size: int = config.get_text_config().hidden_size
        self.num_layers: int = config.get_text_config().num_hidden_layers
        self._options = {
            "dtype": getattr(torch, options.dtype),
            "attn_implementation": options.attention,
        }
        built = checkpoint.build(
            config, self.auto_class, initialise=not self._has_weights, **self._options
        )
        self._adopt(built)
        self.register_load_state_dict_post_hook(_after_load)

    def read_config(self) -> Any:
        """Return the checkpoint's configuration.

        Raises:
            ValueError: A checkpoint of another model, or a folder that is not a whole one.
        """
        return checkpoint_files.read_config(
            self.source, self.model_type, reads_images=self.reads_images
        )

    def shard_units(self) -> list[nn.Module]:
        """Blocks of the vision tower, then of the language model."""
        from transformers.modeling_layers import GradientCheckpointingLayer

        return [m for m in self.model.modules() if isinstance(m, GradientCheckpointingLayer)]

    def load_base(self) -> bool:
        """Load the checkpoint's safetensors, through transformers (old key names, shards, hub).

        Returns:
            False if the folder has no weights: the random ones of the constructor stay.

        Raises:
            ValueError: Weights are missing or left over.
        """
        if not self._has_weights:
            return False
        self.load_folder(Path(self.source))
        return True

    def load_folder(self, folder: Path) -> None:
        """Load what `export` wrote, whatever `path` says.

        Args:
            folder: A folder of a VLM, or a hub id.

        Raises:
            ValueError: Weights are missing or left over.
        """
        self._adopt(checkpoint.load(self.model, str(folder), **self._options))

    def export(self, folder: Path) -> None:
        """Write the model, its tokenizer and image settings: a folder for `path`.

        Args:
            folder: Created if missing.

        Raises:
            ValueError: LoRA is still apart from the weights.
        """
        source = self.source if self.reads_images else None
        checkpoint.save(self.model, self.tokenizer, source, folder)

    def reset_buffers(self) -> None:
        """Compute the RoPE tables again, in float32; see `checkpoint.restore`."""
        checkpoint.restore(self.model)

    @cached_property
    def tokenizer(self) -> Any:
        """The checkpoint's tokenizer."""
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.source)

    def _apply(self, *args: Any, **kwargs: Any) -> PretrainedPart:
        super()._apply(*args, **kwargs)  # every move and cast comes by here
        self.reset_buffers()
        return self

    def _adopt(self, model: nn.Module) -> None:
        if self.hparams.gradient_checkpointing:
            checkpoint.recompute_layers(model)
        self.model = model.train(self.training)
        self.reset_buffers()


def _after_load(part: PretrainedPart, _: object) -> None:
    part.reset_buffers()
