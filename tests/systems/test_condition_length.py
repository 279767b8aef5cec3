"""A connector that changes the number of tokens: the head is given its mask, not the states'."""

from __future__ import annotations

import pytest
import torch

from qk_lightning.assembly.build import open_world
from qk_lightning.assembly.dry_run import meta_parts
from qk_lightning.assembly.trial import connector_problems
from qk_lightning.assembly.weights import starting_entries
from qk_lightning.config.compose import compose
from qk_lightning.parts.connectors.resampler import Resampler
from qk_lightning.systems.base import build_system
from qk_lightning.systems.query_kontext import QueryKontext

pytestmark = pytest.mark.usefixtures("tiny_presets")
FIXED = "connector={name: resampler, num_tokens: 3}"


@pytest.mark.parametrize("context", ["text", "both"])
def test_the_head_is_given_a_condition_of_fixed_length(context: str) -> None:
    cfg = compose("tiny/stage1", [FIXED, f"system.context={context}"]).cfg
    system = build_system(cfg, starting_entries(cfg, QueryKontext.families, None))
    system.configure_model()
    world = open_world(cfg.data.world)
    world.prepare()
    system.log = lambda *args, **kwargs: None
    batch = system.data_module(world, None).val_batches("text_to_image", 2, 2)[0]
    batch.prompts = ["", "a person with red hair"]
    condition = system.condition(batch)
    assert condition.states.shape == (2, 3, 32)
    assert condition.mask.shape == (2, 3) and condition.mask.all()
    system.training_step(batch, 0).backward()
    assert all(p.grad is not None for p in system.connector.parameters())
    assert torch.isfinite(system.predict_step(batch, 0)).all()


def test_a_mask_that_does_not_fit_is_told_before_anything_trains(monkeypatch) -> None:
    parts = meta_parts(compose("tiny/stage1", [FIXED]).cfg)
    assert connector_problems(parts, "resampler") == []
    monkeypatch.setattr(Resampler, "output_mask", lambda self, mask: mask)
    (problem,) = connector_problems(parts, "resampler")
    assert "a condition of [2, 5, 32]" in problem.expected
    assert "returns [2, 3, 32]" in problem.expected
    monkeypatch.setattr(Resampler, "output_mask", lambda self, mask: mask.float())
    (problem,) = connector_problems(parts, "resampler")
    assert "an output_mask that gives [2, N] bool" in problem.expected
