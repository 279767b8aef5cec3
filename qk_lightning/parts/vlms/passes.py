"""The ways through a VLM: prefill and read, or one joint forward, on the same positions.

Attention is causal and the queries come last, so a prefix never sees them: prefill + read equals
the joint forward. Every pass gives the positions explicitly: transformers makes up wrong ones
without a word where a VLM has three rows of them and gets embeddings. `vlm` is the part.
Shapes: B samples; S prefix positions; T of the longest prompt; K queries; D hidden size; M layers
asked for; R rows of positions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from qk_lightning.parts.vlms.inputs import Embedded, Layers, Prefix, VLMInputs, VLMOutput

if TYPE_CHECKING:
    from qk_lightning.parts.vlms.base import VLMPart


def run(
    vlm: VLMPart,
    embedded: Embedded,
    mask: Tensor,
    positions: Tensor,
    cache: Any = None,
    layers: Layers = None,
) -> Tensor:
    """Run the language model's layers and final norm.

    Args:
        vlm: The part.
        embedded: Embeddings [B, L, D].
        mask: [B, positions in the cache + L], 0 on padding.
        positions: [R, B, L].
        cache: Key/value cache, which grows by L; None for none.
        layers: Indices of transformers' hidden_states; None for the last alone.

    Returns:
        Final states [B, L, D]; [M, B, L, D] for M layers.
    """
    more: dict[str, Any] = {} if layers is None else {"output_hidden_states": True}
    if embedded.image_layers:
        more["visual_pos_masks"] = embedded.image_mask
        more["deepstack_visual_embeds"] = list(embedded.image_layers)
    output = vlm.language_model(
        inputs_embeds=embedded.states,
        attention_mask=mask,
        position_ids=positions if len(positions) > 1 else positions[0],
        past_key_values=cache,
        use_cache=cache is not None,
        **more,
    )
    if layers is None:
        return output.last_hidden_state
    return torch.stack([output.hidden_states[index] for index in layers])


def prefill(vlm: VLMPart, inputs: VLMInputs, layers: Layers = None) -> Prefix:
    """Compute the prefix without gradient.

    Args:
        vlm: The part, in eval mode (checkpointed layers drop the cache).
        inputs: B prompts.
        layers: The layers that will be read; None for the last alone.

    Returns:
        What `read` needs.
    """
    with torch.no_grad():
        cache, embedded = vlm.new_cache(), vlm.embed_prefix(inputs)
        states = run(vlm, embedded, inputs.attention_mask, inputs.position_ids, cache, layers)
        text_states, text_mask = inputs.prompt_states(states)
    rows = len(inputs.position_ids)
    mask, start = inputs.attention_mask, inputs.next_position
    return Prefix(text_states, text_mask, cache, mask, start, rows, layers)


def read(vlm: VLMPart, prefix: Prefix, queries: Tensor | None) -> Tensor:
    """Run the queries after a prefix.

    Args:
        vlm: The part, in eval mode.
        prefix: From `prefill`; it stays as it is.
        queries: [B, K, D], or None for K = 0.

    Returns:
        kontext [(M,) B, K, D] in the queries' dtype.
    """
    if queries is None or not queries.shape[1]:
        return prefix.text_states[..., :0, :]
    mask, positions = extend(
        prefix.attention_mask, prefix.next_position, queries.shape[1], prefix.num_rows
    )
    embedded = Embedded(queries.to(prefix.text_states.dtype))
    states = run(vlm, embedded, mask, positions, prefix.fork_cache(), prefix.layers)
    return states.to(queries.dtype)


def joint(
    vlm: VLMPart, inputs: VLMInputs, queries: Tensor | None, layers: Layers = None
) -> VLMOutput:
    """Run prefix and queries in one forward, with gradient through all of it.

    Args:
        vlm: The part.
        inputs: B prompts.
        queries: [B, K, D], or None for K = 0.
        layers: The layers that are read; None for the last alone.

    Returns:
        The same as prefill and read.
    """
    embedded = vlm.embed_prefix(inputs)
    mask, positions = inputs.attention_mask, inputs.position_ids
    length = mask.shape[1]
    if queries is not None:
        mask, more = extend(mask, inputs.next_position, queries.shape[1], len(positions))
        positions = torch.cat([positions, more], dim=2)
        embedded = embedded.followed_by(queries.to(embedded.states.dtype))
    states = run(vlm, embedded, mask, positions, layers=layers)
    kontext = states[..., length:, :].clone()  # FSDP warns of views: its hook is lost in-place
    if queries is not None:
        kontext = kontext.to(queries.dtype)
    return VLMOutput(*inputs.prompt_states(states), kontext)


def extend(
    mask: Tensor, next_position: Tensor, length: int, num_rows: int
) -> tuple[Tensor, Tensor]:
    """Append positions after a prefix, counted on as for text.

    Args:
        mask: [B, S] of the prefix.
        next_position: [B], the first new position.
        length: L, how many to append.
        num_rows: R.

    Returns:
        Mask [B, S + L] and the new positions [R, B, L].
    """
    steps = torch.arange(length, device=mask.device)
    positions = (next_position[:, None] + steps).expand(num_rows, -1, -1)
    return torch.cat([mask, mask.new_ones(len(mask), length)], dim=1), positions
