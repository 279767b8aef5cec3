"""Connectors that hand on other than one token a state: the resampler, and none at all."""

from __future__ import annotations

import pytest
import torch

from qk_lightning.parts.connectors.identity import Identity
from qk_lightning.parts.connectors.masks import condition_mask
from qk_lightning.parts.connectors.mlp import MLP
from qk_lightning.parts.connectors.resampler import Resampler


def make(**changes):
    torch.manual_seed(0)
    options = {"num_tokens": 3, "num_heads": 2, "init_std": 0.3, "input_size": 32}
    return Resampler(**{**options, "output_size": 24, **changes})


@torch.no_grad()
@pytest.mark.parametrize("width", [None, 16])
@pytest.mark.parametrize("cut", [0, 4, 6])
def test_padding_changes_nothing_wherever_it_is(cut, width):
    part, states = make(width=width), torch.randn(2, 6, 32)
    expected = part(states, torch.ones(2, 6, dtype=torch.bool))
    rubbish = torch.full((2, 3, 32), float("nan"))
    padded = torch.cat([states[:, :cut], rubbish, states[:, cut:]], dim=1)
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[:, cut : cut + 3] = False
    assert expected.shape == (2, 3, 24)
    torch.testing.assert_close(part(padded, mask), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_every_token_reads_every_state_in_any_order():
    part, states = make(), torch.randn(1, 5, 32)
    mask = torch.ones(1, 5, dtype=torch.bool)
    expected = part(states, mask)
    torch.testing.assert_close(part(states.flip(1), mask), expected, atol=1e-5, rtol=1e-5)
    for place in range(5):
        other = states.clone()
        other[:, place] += 1
        assert ((part(other, mask) - expected).abs().amax(-1) > 1e-4).all()


def test_a_row_of_nothing_but_padding_is_a_condition_without_a_prompt():
    part, states = make(), torch.randn(2, 4, 32, requires_grad=True)
    mask = torch.tensor([[True] * 4, [False] * 4])
    output = part(states, mask)
    output.square().sum().backward()
    empty = part(torch.zeros(1, 0, 32), torch.zeros(1, 0, dtype=torch.bool))
    torch.testing.assert_close(output[1:], empty)
    assert output[1].any() and not states.grad[1].any()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in part.parameters())


def test_the_conditions_mask_is_all_true_where_the_length_is_fixed():
    mask = torch.tensor([[True] * 4, [False] * 4])
    told = condition_mask(make(), mask)
    assert told.dtype == torch.bool and told.shape == (2, 3) and told.all()
    assert condition_mask(MLP(input_size=8, output_size=8), mask) is mask


def test_the_identity_clears_padding_and_nothing_else():
    part, states = Identity(input_size=8, output_size=8), torch.randn(2, 3, 8, dtype=torch.bfloat16)
    mask = torch.tensor([[True] * 3, [False, True, True]])
    assert torch.equal(part(states, mask), states * mask[..., None])
    assert not list(part.parameters())
