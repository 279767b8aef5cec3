"""Operations counted on the meta device are those of the closed form."""

from __future__ import annotations

import pytest
import torch

from qk_lightning.assembly.dry_run import dry_run
from qk_lightning.assembly.flops import PROMPT_TOKENS, count_flops
from qk_lightning.config.compose import compose
from qk_lightning.parts.base import Part
from qk_lightning.parts.connectors.enc_proj import EncProj
from qk_lightning.parts.connectors.mlp import MLP


def flops_of(part: Part, length: int) -> int | None:
    states = torch.ones(1, length, 32, device="meta")
    mask = torch.ones(1, length, dtype=torch.bool, device="meta")
    return count_flops(lambda: part(states, mask))[0]


def test_a_connectors_operations_are_two_a_weight_and_token_and_attention_over_all_pairs() -> None:
    with torch.device("meta"):
        mlp = MLP(hidden_size=48, input_size=32, output_size=24)
        encoder = EncProj(num_layers=3, num_heads=2, input_size=32, output_size=24)
    assert flops_of(mlp, 10) == 2 * 10 * (32 * 48 + 48 * 24)
    matrices = 3 * 16 * 32**2 + 32 * 24 + 24**2
    attention = 3 * 2 * 2 * 10 * 10 * 32  # queries x keys and weights x values
    assert flops_of(encoder, 10) == 2 * 10 * matrices + attention


def test_what_cannot_run_without_numbers_is_not_counted() -> None:
    class Asking(Part):
        def forward(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return states * states.sum().item()

    assert flops_of(Asking(), 3) is None


@pytest.mark.usefixtures("tiny_presets")
def test_a_dry_run_tells_the_operations_of_every_pass() -> None:
    result = dry_run(compose("tiny/stage3").cfg)
    found = {cost.name: cost for cost in result.flops}
    assert list(found) == ["vlm prefix", "vlm read", "connector", "head", "autoencoder encode"]
    assert all(cost.flops for cost in found.values())
    # Width 32, one layer: 4 attention matrices (one head), 3 of the SwiGLU of 64.
    matrices = 4 * 32**2 + 3 * 32 * 64
    attention = 4 * PROMPT_TOKENS**2 * 32
    assert found["vlm prefix"].flops == 2 * PROMPT_TOKENS * matrices + attention
    assert found["vlm read"].flops == 2 * 2 * matrices + 4 * 2 * (PROMPT_TOKENS + 2) * 32
    assert "1 source" in found["head"].what and f"{PROMPT_TOKENS + 2} condition tokens" in str(
        found["head"].what
    )
    said = result.describe()
    assert "vlm read" in said and "MFLOP" in said and "a multiplication" in said


@pytest.mark.usefixtures("tiny_presets")
def test_a_connector_of_fixed_length_shortens_the_heads_condition() -> None:
    overrides = ["connector={name: resampler, num_tokens: 3}", "system.context=queries"]
    found = {cost.name: cost for cost in dry_run(compose("tiny/stage1", overrides).cfg).flops}
    assert found["connector"].what == "2 tokens"
    assert "3 condition tokens" in found["head"].what
