"""A VLM that talks: the loss of an answer, and greedy answers. Used to teach a small VLM.

Not here: queries and kontext (`passes.py`).
Shapes: B samples; S prefix positions; A tokens of the longest answer with its end; V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from qk_lightning.parts.vlms import passes
from qk_lightning.parts.vlms.inputs import Embedded, VLMInputs
from qk_lightning.parts.vlms.prompts import encode_plain, pad

if TYPE_CHECKING:
    from qk_lightning.parts.vlms.base import VLMPart


def next_token_loss(vlm: VLMPart, inputs: VLMInputs, target_texts: list[str]) -> Tensor:
    """Mean cross entropy of the answers' tokens and the token that ends them, in one forward.

    loss = mean over samples and answer tokens a_j of -log p(a_j | prefix, a_<j). Logits are
    computed at these positions only.

    Args:
        vlm: The part.
        inputs: B prompts.
        target_texts: B answers; an empty one is its end alone.

    Returns:
        A scalar, float32.
    """
    end = vlm.end_id
    rows = [[*ids, end] for ids in encode_plain(vlm.tokenizer, target_texts)]
    answers, is_answer = (t.to(inputs.input_ids.device) for t in pad(rows, end, side="right"))
    given = answers[:, :-1]  # the last token predicts nothing
    first = inputs.position_ids
    mask, more = passes.extend(
        inputs.attention_mask, inputs.next_position, given.shape[1], len(first)
    )
    positions = torch.cat([first, more], dim=2)
    embedded = vlm.embed_prefix(inputs).followed_by(vlm.model.get_input_embeddings()(given))
    # Padding on the right needs no mask here: attention is causal, no answer token sees it.
    states = passes.run(vlm, embedded, mask, positions)
    states = states[:, inputs.input_ids.shape[1] - 1 :]
    chosen = is_answer.bool()
    logits = vlm.model.get_output_embeddings()(states[chosen])
    return F.cross_entropy(logits.float(), answers[chosen])


@torch.no_grad()
def greedy_answers(vlm: VLMPart, inputs: VLMInputs, max_new_tokens: int) -> list[str]:
    """Answer with the likeliest token each time, until the token that ends a turn.

    Args:
        vlm: The part, in eval mode.
        inputs: B prompts.
        max_new_tokens: Longest answer.

    Returns:
        B texts.
    """
    end, cache = vlm.end_id, vlm.new_cache()
    mask, next_position = inputs.attention_mask, inputs.next_position
    states = passes.run(vlm, vlm.embed_prefix(inputs), mask, inputs.position_ids, cache)
    tokens: list[Tensor] = []
    ended = torch.zeros(len(mask), dtype=torch.bool, device=mask.device)
    for step in range(max_new_tokens):
        logits = vlm.model.get_output_embeddings()(states[:, -1])
        token = logits.argmax(dim=-1).masked_fill(ended, end)
        tokens.append(token)
        ended = ended | (token == end)
        if bool(ended.all()) or step + 1 == max_new_tokens:
            break
        rows = len(inputs.position_ids)
        mask, positions = passes.extend(mask, next_position + step, 1, rows)
        word = Embedded(vlm.model.get_input_embeddings()(token[:, None]))
        states = passes.run(vlm, word, mask, positions, cache)
    ids = torch.stack(tokens, dim=1).tolist() if tokens else [[]] * len(mask)
    cut = [row[: row.index(end)] if end in row else row for row in ids]
    return vlm.tokenizer.batch_decode(cut, skip_special_tokens=True)
