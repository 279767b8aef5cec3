"""What all VLMs share: prompts, images and queries in, states of prompt and queries out.

Prefill, read and joint are modes in here: a frozen VLM computes the prefix without gradient and
reads it with the queries alone; a VLM that trains runs one joint forward. Not here: weights
(`pretrained.py`), the prefix's making (`preparing.py`), the passes (`passes.py`), talking
(`language.py`), LoRA and freezing (assembly), and what differs from model to model: a model's own
file holds its chat layout, its way with pixels, and its positions.
Shapes: B samples; S prefix positions; T of the longest prompt; K queries; D hidden size; M layers
asked for; R rows of positions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from qk_lightning.parts.vlms import language, passes, preparing
from qk_lightning.parts.vlms.inputs import (
    Embedded,
    Layers,
    Pictures,
    Prefix,
    VLMInputs,
    VLMOutput,
)
from qk_lightning.parts.vlms.pretrained import PretrainedPart
from qk_lightning.parts.vlms.prompts import ChatLayout


class VLMPart(PretrainedPart):
    """A checkpoint that reads prompts, and images where it has eyes.

    A subclass sets `model_type` and `layout`, writes `pictures` and `image_features` where it
    reads images, and `positions` where a position is more than a place in the row. Its options
    are those of `PretrainedPart` and `max_prompt_tokens`.

    Attributes:
        layout: The chat template.
        has_warned: Said once that prompts are cut.
    """

    forward_methods = ("prefill", "read", "language_loss", "answer")
    lora_targets = ("q_proj", "k_proj", "v_proj", "o_proj")
    layout: ChatLayout
    has_warned: bool = False

    # What differs from model to model

    def pictures(self, images: Tensor) -> Pictures:
        """Bring images into the form that the vision tower takes.

        Args:
            images: [B, N, 3, H, W] in [-1, 1], N of 1 or more.

        Returns:
            The pixels, and how many tokens an image becomes.
        """
        raise NotImplementedError

    def image_features(self, inputs: VLMInputs) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Run the vision tower.

        Args:
            inputs: With pixels.

        Returns:
            [image tokens, D] in the order of the prompts, and what is added to them after the
            language model's first layers.
        """
        raise NotImplementedError

    def positions(self, ids: Tensor, mask: Tensor, pictures: Pictures | None) -> Tensor:
        """Give each token its position: the place in its row, from 0.

        Args:
            ids: [B, S], padded on the left.
            mask: [B, S], 0 on the padding.
            pictures: The images, or None.

        Returns:
            [R, B, S] int64, any number on the padding.
        """
        return (mask.cumsum(dim=1) - 1).clamp(min=0)[None]

    # The interface

    def prepare(self, prompts: list[str], images: Tensor | None = None) -> VLMInputs:
        """Turn prompts and images into the prefix that the VLM reads.

        Args:
            prompts: B texts; an empty one stands for 'no condition'.
            images: [B, N, 3, H, W] in [-1, 1], in front of the prompt; None or N = 0 for none.

        Returns:
            Inputs on the part's device.

        Raises:
            ConfigError: A VLM that reads no images was given some.
            ValueError: Another number of images than of prompts.
        """
        return preparing.prepare(self, prompts, images)

    def forward(
        self,
        inputs: VLMInputs,
        queries: Tensor | None = None,
        prefix: Prefix | None = None,
        layers: Layers = None,
    ) -> VLMOutput:
        """Run the VLM: prefill and read while it is frozen, else one joint forward.

        Args:
            inputs: From `prepare`.
            queries: [B, K, D], or None for K = 0.
            prefix: From `prefill` of the same inputs, to save that pass.
            layers: M indices of states as in transformers' hidden_states: 0 is what enters the
                first layer, L what leaves the last of L layers and the final norm; all between
                are before that norm. None reads the last alone, at no cost.

        Returns:
            text_states [B, T, D] right-aligned, text_mask [B, T], kontext [B, K, D]; with layers
            [M, B, T, D] and [M, B, K, D]. In the queries' dtype, without queries in the VLM's
            own.

        Raises:
            ValueError: A prefix is given to a VLM that trains: it holds no gradient; or it was
                made for other layers.
        """
        if prefix is None and self._trains:
            self._set_mode(self.training)
            output = passes.joint(self, inputs, queries, layers)
        else:
            self._set_mode(False)
            self._refuse_gradient()
            prefix = passes.prefill(self, inputs, layers) if prefix is None else prefix
            if prefix.layers != layers:
                raise ValueError(
                    f"prefix: made for layers {prefix.layers}, asked for {layers}; make it with "
                    "vlm.prefill(inputs, layers)."
                )
            kontext = passes.read(self, prefix, queries)
            output = VLMOutput(prefix.text_states, prefix.text_mask, kontext)
        if queries is None:
            return output
        return output._replace(text_states=output.text_states.to(queries.dtype))

    def prefill(self, inputs: VLMInputs, layers: Layers = None) -> Prefix:
        """Compute the prefix of `inputs` without gradient, to be read any number of times.

        Args:
            inputs: From `prepare`.
            layers: As in `forward`.

        Returns:
            What `read` and `forward` take.
        """
        self._set_mode(False)
        return passes.prefill(self, inputs, layers)

    def read(self, prefix: Prefix, queries: Tensor | None) -> Tensor:
        """Run the queries after a prefix, with gradient through the query positions alone.

        Args:
            prefix: From `prefill`; unchanged, reading grows a copy of its cache.
            queries: [B, K, D], or None for K = 0.

        Returns:
            kontext [B, K, D], or [M, B, K, D] where the prefix is of M layers.

        Raises:
            ValueError: The VLM trains; a prefix would hide its gradient.
        """
        self._set_mode(False)
        self._refuse_gradient()
        return passes.read(self, prefix, queries)

    def language_loss(self, inputs: VLMInputs, target_texts: list[str]) -> Tensor:
        """Mean next-token loss of answers and their end; see `language.next_token_loss`.

        Args:
            inputs: From `prepare`, B samples.
            target_texts: B answers.

        Returns:
            A scalar, with gradient.
        """
        self._set_mode(self.training)
        return language.next_token_loss(self, inputs, target_texts)

    def answer(self, inputs: VLMInputs, max_new_tokens: int = 32) -> list[str]:
        """Answer greedily.

        Args:
            inputs: From `prepare`, B samples.
            max_new_tokens: Longest answer.

        Returns:
            B texts.
        """
        self._set_mode(False)
        return language.greedy_answers(self, inputs, max_new_tokens)

    # For the passes

    @property
    def language_model(self) -> nn.Module:
        """The layers and final norm that embeddings run through."""
        return self.model.get_decoder()

    @property
    def end_id(self) -> int:
        """The token that ends an answer."""
        return self.tokenizer.convert_tokens_to_ids(self.layout.end)

    @property
    def weights_device(self) -> torch.device:
        """Where the token table lies, and inputs go."""
        return self.model.get_input_embeddings().weight.device

    def new_cache(self) -> Any:
        """Return an empty key/value cache."""
        from transformers import DynamicCache

        return DynamicCache(config=self.model.config.get_text_config())

    def embed_prefix(self, inputs: VLMInputs) -> Embedded:
        """Embed the prefix: tokens from the table, images from the vision tower.

        Args:
            inputs: B prompts.

        Returns:
            Embeddings [B, S, D].
        """
        states = self.model.get_input_embeddings()(inputs.input_ids)
        if inputs.pixel_values is None:
            return Embedded(states)
        features, later = self.image_features(inputs)
        is_image = inputs.input_ids == self.model.config.image_token_id
        states = states.masked_scatter(is_image[..., None], features.to(states.dtype))
        return Embedded(states, is_image, later)

    @property
    def _trains(self) -> bool:
        return any(parameter.requires_grad for parameter in self.model.parameters())

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
