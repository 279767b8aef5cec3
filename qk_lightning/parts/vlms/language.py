"""A VLM that talks: the loss of an answer, and greedy answers. Used to teach a small VLM.

Not here: queries and kontext (`passes.py`).
Shapes: B samples; S prefix positions; A tokens of the longest answer with its end; V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from qk_lightning.parts.vlms import passes
from qk_lightning.parts.vlms.inputs import VLMInputs
from qk_lightning.parts.vlms.prompts import END, encode_plain, pad


def next_token_loss(
    model: nn.Module, tokenizer: Any, inputs: VLMInputs, target_texts: list[str]
) -> Tensor:
    """Mean cross entropy of the answers' tokens and their `<|im_end|>`, in one forward.

    loss = mean over samples and answer tokens a_j of -log p(a_j | prefix, a_<j). Logits are
    computed at these positions only.

    Args:
        model: The VLM.
        tokenizer: Of the VLM.
        inputs: B prompts.
        target_texts: B answers; an empty one is its end alone.

    Returns:
        A scalar, float32.
    """
    end = tokenizer.convert_tokens_to_ids(END)
    rows = [[*ids, end] for ids in encode_plain(tokenizer, target_texts)]
    answers, is_answer = (t.to(inputs.input_ids.device) for t in pad(rows, end, side="right"))
    given = answers[:, :-1]  # the last token predicts nothing
    mask, more = passes.extend(inputs.attention_mask, inputs.next_position, given.shape[1])
    positions = torch.cat([inputs.position_ids, more], dim=2)
    prefix = passes.embed_prefix(model, inputs)
    embeddings = torch.cat([prefix, model.get_input_embeddings()(given)], dim=1)
    # Padding on the right needs no mask here: attention is causal, no answer token sees it.
    states = passes.run(model, embeddings, mask, positions)
    states = states[:, inputs.input_ids.shape[1] - 1 :]
    chosen = is_answer.bool()
    return F.cross_entropy(model.lm_head(states[chosen]).float(), answers[chosen])


@torch.no_grad()
def greedy_answers(
    model: nn.Module, tokenizer: Any, inputs: VLMInputs, max_new_tokens: int
) -> list[str]:
    """Answer with the likeliest token each time, until `<|im_end|>`.

    Args:
        model: The VLM, in eval mode.
        tokenizer: Of the VLM.
        inputs: B prompts.
        max_new_tokens: Longest answer.

    Returns:
        B texts.
    """
    from transformers import DynamicCache

    end = tokenizer.convert_tokens_to_ids(END)
    cache = DynamicCache(config=model.config.get_text_config())
    mask, next_position = inputs.attention_mask, inputs.next_position
    states = passes.run(model, passes.embed_prefix(model, inputs), mask, inputs.position_ids, cache)
    tokens: list[Tensor] = []
    ended = torch.zeros(len(mask), dtype=torch.bool, device=mask.device)
    for step in range(max_new_tokens):
        token = model.lm_head(states[:, -1]).argmax(dim=-1).masked_fill(ended, end)
        tokens.append(token)
        ended = ended | (token == end)
        if bool(ended.all()) or step + 1 == max_new_tokens:
            break
        mask, positions = passes.extend(mask, next_position + step, 1)
        states = passes.run(
            model, model.get_input_embeddings()(token[:, None]), mask, positions, cache
        )
    ids = torch.stack(tokens, dim=1).tolist() if tokens else [[]] * len(mask)
    cut = [row[: row.index(end)] if end in row else row for row in ids]
    return tokenizer.batch_decode(cut, skip_special_tokens=True)
