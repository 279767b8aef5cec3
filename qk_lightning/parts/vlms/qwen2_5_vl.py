"""Qwen2.5-VL as a part: prompts, images and queries in, states of prompt and queries out.

Prefill, read and joint are modes in here: a frozen VLM computes the prefix without gradient and
reads it with the queries alone; a VLM that trains runs one joint forward. Not here: token ids
(`prompts.py`), pixels (`patches.py`), talking (`language.py`), LoRA and freezing (assembly).
Shapes: B samples; S prefix positions; T of the longest prompt; K queries; D hidden size.
"""

from __future__ import annotations

import warnings
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from qk_lightning.parts.base import Part, find_folder
from qk_lightning.parts.vlms import checkpoint, language, passes
from qk_lightning.parts.vlms.inputs import Prefix, VLMInputs, VLMOutput
from qk_lightning.parts.vlms.patches import PatchSettings
from qk_lightning.parts.vlms.prompts import make_inputs


class Qwen25VL(Part):
    """A Qwen2.5-VL checkpoint: the small built-in ones, your own, or a hub id.

    Args:
        path: Folder as transformers writes it (config.json, safetensors, tokenizer,
            preprocessor_config.json), `builtin:<name>`, or a hub id.
        max_prompt_tokens: Longer prompts are cut, with a warning.
        min_pixels: Smaller images are enlarged to this area; None takes the checkpoint's.
        max_pixels: Larger images are reduced to this area; None takes the checkpoint's.
        attention: Implementation in transformers; flash_attention_2 needs its package and a GPU.
        gradient_checkpointing: Recompute the layers in the backward pass; of use only while the
            VLM itself trains.
        dtype: Of the weights in memory.
    """

    version = 1
    paths = ("path",)
    forward_methods = ("prefill", "read", "language_loss", "answer")
    lora_targets = ("q_proj", "k_proj", "v_proj", "o_proj")

    def __init__(
        self,
        *,
        path: str,
        max_prompt_tokens: int = 256,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa",
        gradient_checkpointing: bool = False,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        folder = find_folder(path)
        self.source = path if folder is None else str(folder)
        self._has_weights = folder is None or checkpoint.holds_weights(folder)
        config = checkpoint.read_config(self.source, "qwen2_5_vl")
        self.hidden_size: int = config.get_text_config().hidden_size
        self._options = {"dtype": getattr(torch, dtype), "attn_implementation": attention}
        self._adopt(checkpoint.build(config, initialise=not self._has_weights, **self._options))
        self.register_load_state_dict_post_hook(_after_load)
        self._has_warned = False

    def shard_units(self) -> list[nn.Module]:
        """Blocks of the vision tower, then of the language model."""
        return [*self.model.model.visual.blocks, *self.model.model.language_model.layers]

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
        """Write the model, tokenizer and preprocessor_config.json: a folder for `path`.

        Args:
            folder: Created if missing.

        Raises:
            ValueError: LoRA is still apart from the weights.
        """
        checkpoint.save(self.model, self.tokenizer, self.source, folder)

    def reset_buffers(self) -> None:
        """Compute the RoPE tables again, in float32; see `checkpoint.restore`."""
        checkpoint.restore(self.model)

    def _apply(self, *args: Any, **kwargs: Any) -> Qwen25VL:  # every move and cast comes by here
        super()._apply(*args, **kwargs)
        self.reset_buffers()
        return self

    @cached_property
    def tokenizer(self) -> Any:
        """The checkpoint's tokenizer."""
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.source)

    @cached_property
    def patch_settings(self) -> PatchSettings:
        """What preprocessor_config.json and the options say about images."""
        text = checkpoint.read_text(self.source, checkpoint.PREPROCESSOR_FILE)
        limits = {"min_pixels": self.hparams.min_pixels, "max_pixels": self.hparams.max_pixels}
        return PatchSettings.read(text, **limits)

    def prepare(self, prompts: list[str], images: Tensor | None = None) -> VLMInputs:
        """Turn prompts and images into the prefix that the VLM reads.

        Args:
            prompts: B texts; an empty one stands for 'no condition'.
            images: [B, N, 3, H, W] in [-1, 1], in front of the prompt; None or N = 0 for none.

        Returns:
            Inputs on the part's device.
        """
        limit = self.hparams.max_prompt_tokens
        images = None if images is None else images.to(self._weights_device)
        made = make_inputs(self.model, self.tokenizer, self.patch_settings, prompts, images, limit)
        if made.num_cut and not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f"{made.num_cut} of {len(prompts)} prompts are cut to {limit} tokens; "
                "raise vlm.max_prompt_tokens to keep them whole.",
                stacklevel=2,
            )
        return made.to(self._weights_device)

    def forward(
        self, inputs: VLMInputs, queries: Tensor | None = None, prefix: Prefix | None = None
    ) -> VLMOutput:
        """Run the VLM: prefill and read while it is frozen, else one joint forward.

        Args:
            inputs: From `prepare`.
            queries: [B, K, D], or None for K = 0.
            prefix: From `prefill` of the same inputs, to save that pass.

        Returns:
            text_states [B, T, D] right-aligned, text_mask [B, T], kontext [B, K, D]; in the
            queries' dtype, without queries in the VLM's own.

        Raises:
            ValueError: A prefix is given to a VLM that trains: it holds no gradient.
        """
        if prefix is None and self._trains:
            self._set_mode(self.training)
            output = passes.joint(self.model, inputs, queries)
        else:
            self._set_mode(False)
            self._refuse_gradient()
            prefix = passes.prefill(self.model, inputs) if prefix is None else prefix
            kontext = passes.read(self.model, prefix, queries)
            output = VLMOutput(prefix.text_states, prefix.text_mask, kontext)
        if queries is None:
            return output
        return output._replace(text_states=output.text_states.to(queries.dtype))

    def prefill(self, inputs: VLMInputs) -> Prefix:
        """Compute the prefix of `inputs` without gradient, to be read any number of times."""
        self._set_mode(False)
        return passes.prefill(self.model, inputs)

    def read(self, prefix: Prefix, queries: Tensor | None) -> Tensor:
        """Run the queries after a prefix, with gradient through the query positions alone.

        Args:
            prefix: From `prefill`; unchanged, reading grows a copy of its cache.
            queries: [B, K, D], or None for K = 0.

        Returns:
            kontext [B, K, D].

        Raises:
            ValueError: The VLM trains; a prefix would hide its gradient.
        """
        self._set_mode(False)
        self._refuse_gradient()
        return passes.read(self.model, prefix, queries)

    def language_loss(self, inputs: VLMInputs, target_texts: list[str]) -> Tensor:
        """Mean next-token loss of answers and their end; see `language.next_token_loss`.

        Args:
            inputs: From `prepare`, B samples.
            target_texts: B answers.

        Returns:
            A scalar, with gradient.
        """
        self._set_mode(self.training)
        return language.next_token_loss(self.model, self.tokenizer, inputs, target_texts)

    def answer(self, inputs: VLMInputs, max_new_tokens: int = 32) -> list[str]:
        """Answer greedily.

        Args:
            inputs: From `prepare`, B samples.
            max_new_tokens: Longest answer.

        Returns:
            B texts.
        """
        self._set_mode(False)
        return language.greedy_answers(self.model, self.tokenizer, inputs, max_new_tokens)

    @property
    def _trains(self) -> bool:
        return any(parameter.requires_grad for parameter in self.model.parameters())

    @property
    def _weights_device(self) -> torch.device:
        return self.model.get_input_embeddings().weight.device

    def _refuse_gradient(self) -> None:
        if self._trains and torch.is_grad_enabled():
            raise ValueError(
                "vlm: a prefix holds no gradient, but the VLM trains; call vlm(inputs, queries) "
                "without a prefix, or freeze the VLM."
            )

    # Checkpointed layers in training mode drop the key/value cache, so a prefix needs eval mode.
    def _set_mode(self, training: bool) -> None:
        if self.model.training != training:
            self.model.train(training)

    def _adopt(self, model: nn.Module) -> None:
        if self.hparams.gradient_checkpointing:
            checkpoint.recompute_layers(model)
        self.model = model.train(self.training)
        self.reset_buffers()


def _after_load(vlm: Qwen25VL, _: object) -> None:
    vlm.reset_buffers()
