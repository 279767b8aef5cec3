"""What all queries share: which of the VLM's layers are read, and how they become one.

Not here: the query tokens themselves (one file a part).
B batch, T prompt tokens, K queries, D hidden width of the VLM, L its layers, M layers read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from qk_lightning.parts.base import Part
from qk_lightning.parts.vlms.inputs import Layers, VLMOutput

# Draws standard normal numbers that belong to the samples of a batch: a shape to [B, *shape].
Noise = Callable[[Sequence[int]], Tensor]


class QueriesPart(Part):
    """Query tokens, and the choice of layers that prompt and queries are read at.

    A subclass's constructor ends with `self.read_at(layer, num_layers)`.

    Attributes:
        num_queries: K; 0 for a part that only says where the prompt is read.
        layers: What the VLM is asked for: M indices of transformers' hidden_states, or None for
            the last alone.
    """

    forward_methods = ("combine",)
    num_queries: int = 0
    layers: Layers = None

    def read_at(self, layer: str, num_layers: int | None) -> None:
        """Choose what is read.

        State 0 is what enters the first layer, state L what leaves the last and its final norm;
        all states between are before that norm, so of another and growing size. `mix` makes
        softmax(w) of L + 1 learned weights, all 0 at first: sum_l softmax(w)_l state_l.

        Args:
            layer: `last`, `mix`, or an index from -(L + 1) to L.
            num_layers: L; needed for all but `last`.

        Raises:
            ValueError: A word that is none of these, or an index that the VLM does not have.
        """
        if layer == "last":
            return
        if num_layers is None:
            raise ValueError(f"layer: {layer!r} needs num_layers, the number of the VLM's layers.")
        if layer == "mix":
            self.layers = tuple(range(num_layers + 1))
            self.layer_weights = nn.Parameter(torch.zeros(num_layers + 1))
            return
        index = _index(layer, num_layers)
        self.layers = None if index == num_layers else (index,)

    def forward(self, batch_size: int, noise: Noise | None = None) -> Tensor:
        """Make the queries of a batch.

        Args:
            batch_size: B.
            noise: Draws numbers that belong to the samples; only some queries need it.

        Returns:
            Queries [B, K, D]; a copy, since a view of a sharded parameter must not leave a part.
        """
        raise NotImplementedError

    def combine(self, output: VLMOutput) -> VLMOutput:
        """Make one state of the layers that were read.

        Args:
            output: Of the VLM, asked for `layers`: [M, B, T, D] and [M, B, K, D], or without M.

        Returns:
            text_states [B, T, D] and kontext [B, K, D].
        """
        if self.layers is None:
            return output
        text, kontext = (self._one_of(s) for s in (output.text_states, output.kontext))
        return output._replace(text_states=text, kontext=kontext)

    def freeze_tokens(self) -> None:
        """Keep the tokens as they are, for a system that does not read them; the mix may learn."""
        for name, parameter in self.named_parameters():
            if name != "layer_weights":
                parameter.requires_grad_(False)

    def _one_of(self, states: Tensor) -> Tensor:
        if len(states) == 1:
            return states[0]
        weights = self.layer_weights.float().softmax(dim=0).to(states.dtype)
        return torch.einsum("m,mbld->bld", weights, states)


def check_count(num_queries: int) -> None:
    """Refuse a part without a query.

    Args:
        num_queries: K.

    Raises:
        ValueError: Fewer than one.
    """
    if num_queries < 1:
        raise ValueError(
            f"num_queries: {num_queries}, expected 1 or more; for none set system.context=text "
            "(or queries=none)."
        )


def _index(layer: str, num_layers: int) -> int:
    """Turn a text into an index from 0 to L."""
    try:
        index = int(layer)
    except ValueError:
        index = num_layers + 1
    if not -num_layers - 1 <= index <= num_layers:
        raise ValueError(
            f"layer: {layer!r}, expected last, mix, or an index from {-num_layers - 1} to "
            f"{num_layers}: the VLM has {num_layers} layers, 0 is what enters them."
        )
    return index % (num_layers + 1)
