"""Query tokens: a copy of the table, learnt, fixed or drawn; and the layers that are read."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from qk_lightning.data.randomness import normal
from qk_lightning.parts.base import load_weights, read_weights
from qk_lightning.parts.queries.learnable import Learnable
from qk_lightning.parts.queries.noisy import Noisy
from qk_lightning.parts.queries.none import None_
from qk_lightning.parts.queries.random import Random
from qk_lightning.parts.vlms.inputs import VLMOutput

BOTH = pytest.mark.parametrize("part_class", [Learnable, Random])
EACH = pytest.mark.parametrize("part_class", [Learnable, Random, Noisy, None_])
NUM_LAYERS = 3


@BOTH
def test_every_row_of_a_batch_holds_a_copy_of_the_table(part_class):
    part = part_class(num_queries=5, init_std=0.5, hidden_size=400)
    queries = part(3)
    assert queries.shape == (3, 5, 400)
    torch.testing.assert_close(queries[2], part.table)
    assert queries.untyped_storage().data_ptr() != part.table.untyped_storage().data_ptr()
    assert queries.is_contiguous()
    assert abs(part.table.std().item() - 0.5) < 0.05


def test_learnable_queries_learn_and_the_others_have_nothing_to_learn():
    part = Learnable(num_queries=2, hidden_size=4)
    part(3).sum().backward()
    torch.testing.assert_close(part.table.grad, torch.full((2, 4), 3.0))
    for other in (Random, Noisy):
        assert not list(other(num_queries=2, hidden_size=4).parameters())
    assert not list(None_(hidden_size=4).parameters())


@BOTH
def test_the_table_is_saved(part_class, tmp_path):
    part = part_class(num_queries=2, hidden_size=4)
    part.export(tmp_path)
    again = part_class(num_queries=2, hidden_size=4)
    load_weights(again, read_weights(tmp_path))
    torch.testing.assert_close(again(1), part(1))


@pytest.mark.parametrize("part_class", [Learnable, Random, Noisy])
def test_no_queries_is_another_context(part_class):
    with pytest.raises(ValueError, match=r"system.context=text.*queries=none"):
        part_class(num_queries=0, hidden_size=4)


def test_noisy_queries_belong_to_the_sample():
    part = Noisy(num_queries=5, init_std=0.5, hidden_size=400)
    draw = partial(normal, 0, "queries")
    whole = part(4, partial(draw, torch.arange(4)))
    assert whole.shape == (4, 5, 400) and abs(whole.std().item() - 0.5) < 0.05
    torch.testing.assert_close(whole[2:], part(2, partial(draw, torch.tensor([2, 3]))))
    assert not torch.equal(whole[0], whole[1])
    assert not torch.equal(whole, part(4, partial(draw, torch.arange(4, 8))))
    with pytest.raises(ValueError, match="noise"):
        part(4)


def test_none_is_no_query():
    assert None_(hidden_size=4)(3).shape == (3, 0, 4)


def read(num_layers):
    """What a VLM hands on that was asked for so many layers."""
    generator = torch.Generator().manual_seed(0)
    text = torch.randn(num_layers, 2, 5, 4, generator=generator)
    kontext = torch.randn(num_layers, 2, 3, 4, generator=generator)
    return VLMOutput(text, torch.ones(2, 5).bool(), kontext)


@EACH
def test_the_last_layer_costs_nothing(part_class):
    for layer in ("last", str(NUM_LAYERS), "-1"):
        part = part_class(hidden_size=4, layer=layer, num_layers=NUM_LAYERS)
        output = read(1)
        assert part.layers is None and part.combine(output) is output


@EACH
@pytest.mark.parametrize(("layer", "index"), [("0", 0), ("1", 1), ("-2", 2), ("-4", 0)])
def test_a_layer_by_its_index(part_class, layer, index):
    part = part_class(hidden_size=4, layer=layer, num_layers=NUM_LAYERS)
    assert part.layers == (index,)
    output = read(1)
    found = part.combine(output)
    assert torch.equal(found.text_states, output.text_states[0])
    assert torch.equal(found.kontext, output.kontext[0])
    assert not list(part.parameters()) or isinstance(part, Learnable)


@EACH
@pytest.mark.parametrize("layer", ["4", "-5", "first", "1.5"])
def test_a_layer_that_the_vlm_does_not_have(part_class, layer):
    with pytest.raises(ValueError, match=f"layer: '{layer}', expected .*-4 to 3.* has 3 layers"):
        part_class(hidden_size=4, layer=layer, num_layers=NUM_LAYERS)


@EACH
def test_a_mix_is_a_mean_with_learned_weights(part_class):
    part = part_class(hidden_size=4, layer="mix", num_layers=NUM_LAYERS)
    assert part.layers == (0, 1, 2, 3)
    output = read(4)
    found = part.combine(output)
    torch.testing.assert_close(found.text_states, output.text_states.mean(dim=0))
    torch.testing.assert_close(found.kontext, output.kontext.mean(dim=0))
    (found.text_states.square().mean() + found.kontext.square().mean()).backward()
    assert part.layer_weights.grad.abs().min() > 0
    with torch.no_grad():
        part.layer_weights.copy_(torch.tensor([0.0, 50.0, 0.0, 0.0]))
    torch.testing.assert_close(part.combine(output).kontext, output.kontext[1])
    part.freeze_tokens()
    assert [n for n, p in part.named_parameters() if p.requires_grad] == ["layer_weights"]


def test_the_choice_of_a_layer_does_not_move_the_table():
    tables = []
    for layer in ("last", "mix", "1"):
        torch.manual_seed(0)
        tables.append(Learnable(hidden_size=4, layer=layer, num_layers=NUM_LAYERS).table)
    assert torch.equal(tables[0], tables[1]) and torch.equal(tables[0], tables[2])
