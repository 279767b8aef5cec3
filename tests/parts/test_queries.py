"""Query tokens: a copy of the table, learnt or fixed, and saved either way."""

from __future__ import annotations

import pytest
import torch

from qk_lightning.parts.base import load_weights, read_weights
from qk_lightning.parts.queries.learnable import Learnable
from qk_lightning.parts.queries.random import Random

BOTH = pytest.mark.parametrize("part_class", [Learnable, Random])


@BOTH
def test_every_row_of_a_batch_holds_a_copy_of_the_table(part_class):
    part = part_class(num_queries=5, init_std=0.5, hidden_size=400)
    queries = part(3)
    assert queries.shape == (3, 5, 400)
    torch.testing.assert_close(queries[2], part.table)
    assert queries.untyped_storage().data_ptr() != part.table.untyped_storage().data_ptr()
    assert queries.is_contiguous()
    assert abs(part.table.std().item() - 0.5) < 0.05


def test_learnable_queries_learn_and_random_ones_have_nothing_to_learn():
    part = Learnable(num_queries=2, hidden_size=4)
    part(3).sum().backward()
    torch.testing.assert_close(part.table.grad, torch.full((2, 4), 3.0))
    assert not list(Random(num_queries=2, hidden_size=4).parameters())


@BOTH
def test_the_table_is_saved(part_class, tmp_path):
    part = part_class(num_queries=2, hidden_size=4)
    part.export(tmp_path)
    again = part_class(num_queries=2, hidden_size=4)
    load_weights(again, read_weights(tmp_path))
    torch.testing.assert_close(again(1), part(1))


@BOTH
def test_no_queries_is_another_context(part_class):
    with pytest.raises(ValueError, match="system.context=text"):
        part_class(num_queries=0, hidden_size=4)
