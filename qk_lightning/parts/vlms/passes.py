"""The ways through Qwen2.5-VL: prefill and read, or one joint forward, on the same positions.

Attention is causal and the queries come last, so a prefix never sees them: prefill + read equals
the joint forward. Every pass gives the 3-row positions explicitly, because transformers falls
back to 1-row ones without a word when it gets embeddings. `model` is transformers' class.
Shapes: B samples; S prefix positions; T of the longest prompt; K queries; D hidden size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from qk_lightning.parts.vlms.inputs import Prefix, VLMInputs, VLMOutput


def prefix_positions(model: nn.Module, ids: Tensor, mask: Tensor, grids: Tensor | None) -> Tensor:
    """Give each token its (time, row, column), for rows that begin with the same images.

    A row's positions depend on what stands before, so a shorter row has the first positions of
    the longest one: `get_rope_index`, a loop over rows and tokens, runs on one row only.

    Args:
        model: For its `get_rope_index`.
        ids: [B, S], padded on the left.
        mask: [B, S], 0 on the padding.
        grids: [images, 3] patches of each image, or None.

    Returns:
        [3, B, S] int64, 0 on the padding.
    """
    row = int(mask.sum(dim=1).argmax())
    longest = ids[row][mask[row].bool()][None]
    is_image = (longest == model.config.image_token_id).int()
    positions, _ = model.model.get_rope_index(longest, is_image, image_grid_thw=grids)
    order = (mask.cumsum(dim=1) - 1).clamp(min=0)
    return positions[:, 0][:, order]


def embed_prefix(model: nn.Module, inputs: VLMInputs) -> Tensor:
    """Embed the prefix: tokens from the table, images from the vision tower.

    Args:
        model: The VLM.
        inputs: B prompts.

    Returns:
        [B, S, D].
    """
    embeddings = model.get_input_embeddings()(inputs.input_ids)
    if inputs.pixel_values is None:
        return embeddings
    images = model.model.get_image_features(
        inputs.pixel_values, inputs.image_grid_thw, return_dict=True
    ).pooler_output
    features = torch.cat(tuple(images)).to(embeddings.dtype)
    is_image = inputs.input_ids == model.config.image_token_id
    return embeddings.masked_scatter(is_image[..., None], features)


def run(
    model: nn.Module, embeddings: Tensor, mask: Tensor, positions: Tensor, cache: Any = None
) -> Tensor:
    """Run the language model's layers and final norm.

    Args:
        model: The VLM.
        embeddings: [B, L, D].
        mask: [B, positions in the cache + L], 0 on padding.
        positions: [3, B, L].
        cache: Key/value cache, which grows by L; None for none.

    Returns:
        Final states [B, L, D].
    """
    output = model.model.language_model(
        inputs_embeds=embeddings,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=cache is not None,
    )
    return output.last_hidden_state


def prefill(model: nn.Module, inputs: VLMInputs) -> Prefix:
    """Compute the prefix without gradient.

    Args:
        model: The VLM, in eval mode (checkpointed layers drop the cache).
        inputs: B prompts.

    Returns:
        What `read` needs.
    """
    from transformers import DynamicCache

    with torch.no_grad():
        cache = DynamicCache(config=model.config.get_text_config())
        embeddings = embed_prefix(model, inputs)
        states = run(model, embeddings, inputs.attention_mask, inputs.position_ids, cache)
        text_states, text_mask = inputs.prompt_states(states)
    return Prefix(text_states, text_mask, cache, inputs.attention_mask, inputs.next_position)


def read(model: nn.Module, prefix: Prefix, queries: Tensor | None) -> Tensor:
    """Run the queries after a prefix.

    Args:
        model: The VLM, in eval mode.
        prefix: From `prefill`; it stays as it is.
        queries: [B, K, D], or None for K = 0.

    Returns:
        kontext [B, K, D] in the queries' dtype.
    """
    if queries is None or not queries.shape[1]:
        return prefix.text_states[:, :0]
    mask, positions = extend(prefix.attention_mask, prefix.next_position, queries.shape[1])
    embeddings = queries.to(prefix.text_states.dtype)
    return run(model, embeddings, mask, positions, prefix.fork_cache()).to(queries.dtype)


def joint(model: nn.Module, inputs: VLMInputs, queries: Tensor | None) -> VLMOutput:
    """Run prefix and queries in one forward, with gradient through all of it.

    Args:
        model: The VLM.
        inputs: B prompts.
        queries: [B, K, D], or None for K = 0.

    Returns:
        The same as prefill and read.
    """
    embeddings = embed_prefix(model, inputs)
    mask, positions = inputs.attention_mask, inputs.position_ids
    length = mask.shape[1]
    if queries is not None:
        mask, more = extend(mask, inputs.next_position, queries.shape[1])
        positions = torch.cat([positions, more], dim=2)
        embeddings = torch.cat([embeddings, queries.to(embeddings.dtype)], dim=1)
    states = run(model, embeddings, mask, positions)
    kontext = states[:, length:].clone()  # FSDP warns of views: its hook is lost in-place
    if queries is not None:
        kontext = kontext.to(queries.dtype)
    return VLMOutput(*inputs.prompt_states(states), kontext)


def extend(mask: Tensor, next_position: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Append positions after a prefix, counted on as for text.

    Args:
        mask: [B, S] of the prefix.
        next_position: [B], the first new position.
        length: L, how many to append.

    Returns:
        Mask [B, S + L] and the new positions [3, B, L].
    """
    steps = torch.arange(length, device=mask.device)
    positions = (next_position[:, None] + steps).expand(3, -1, -1)
    return torch.cat([mask, mask.new_ones(len(mask), length)], dim=1), positions
