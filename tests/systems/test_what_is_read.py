"""Queries in the system: noisy ones can be drawn again, none leaves the text, layers are learnt."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from qk_lightning.assembly.build import open_world
from qk_lightning.assembly.weights import starting_entries
from qk_lightning.config.compose import compose
from qk_lightning.config.errors import ConfigError
from qk_lightning.systems.base import build_system
from qk_lightning.systems.query_kontext import QueryKontext

pytestmark = pytest.mark.usefixtures("tiny_presets")


def build(*overrides: str) -> tuple[QueryKontext, object]:
    """Return a built system and a batch."""
    cfg = compose("tiny/stage2", ["parent=null", "from_parent=null", *overrides]).cfg
    system = build_system(cfg, starting_entries(cfg, QueryKontext.families, None))
    system.configure_model()
    world = open_world(cfg.data.world)
    world.prepare()
    system.log = lambda *args, **kwargs: None
    return system, system.data_module(world, None).val_batches("text_to_image", 2, 2)[0]


def test_noisy_queries_are_new_each_step_and_the_same_whenever_they_are_drawn() -> None:
    system, batch = build("queries=noisy", "queries.num_queries=2", "system.context=queries")
    states = [system.condition(replace(batch, index=i)).states for i in
              (torch.tensor([0, 1]), torch.tensor([0, 1]), torch.tensor([2, 1]))]  # fmt: skip
    assert torch.equal(states[0], states[1])
    assert torch.equal(states[0][1], states[2][1]) and not torch.equal(states[0][0], states[2][0])
    trained = system.condition(batch).states
    drawn = system.eval().condition(batch).states
    assert not torch.equal(trained, drawn)
    system.seed = 1
    assert torch.equal(drawn, system.condition(batch).states)
    assert not torch.equal(trained, system.train().condition(batch).states)


def test_without_queries_the_text_is_the_condition() -> None:
    (none, batch), (text, _) = (
        build("queries=none", "system.context=both"),
        build("system.context=text"),
    )
    assert torch.equal(none.condition(batch).states, text.condition(batch).states)
    none.training_step(batch, 0).backward()
    assert not list(none.queries.parameters())
    with pytest.raises(ConfigError, match="set system.context=text"):
        compose("tiny/stage2", ["queries=none", "system.context=queries"])


@pytest.mark.parametrize("context", ["text", "both"])
def test_a_mix_of_layers_learns_while_the_vlm_is_frozen(context: str) -> None:
    system, batch = build("queries.layer=mix", f"system.context={context}")
    system.training_step(batch, 0).backward()
    weights = system.queries.layer_weights
    assert weights.grad.abs().max() > 0
    assert (system.queries.table.grad is not None) == (context != "text")
    assert all(p.grad is None for p in system.vlm.parameters())
    assert len(weights) == system.vlm.num_layers + 1


def test_the_last_layer_by_its_index_is_the_last() -> None:
    (last, batch), (index, _) = build(), build("queries.layer=-1")
    assert torch.equal(last.condition(batch).states, index.condition(batch).states)
    earlier, _ = build("queries.layer=0")
    assert not torch.equal(earlier.condition(batch).states, last.condition(batch).states)


def test_a_layer_too_many_is_refused_before_anything_loads() -> None:
    with pytest.raises(ConfigError, match="layer: '9', expected .*the VLM has 1 layers"):
        build("queries.layer=9")


def test_a_model_that_reads_text_alone_is_refused_tasks_with_pictures() -> None:
    with pytest.raises(ConfigError) as caught:
        compose("tiny/stage1", ["vlm=causal_lm", "data.tasks.reconstruction=1"])
    assert "data.tasks.reconstruction" in str(caught.value)
    assert "reads text alone" in str(caught.value) and "vlm=qwen2_5_vl" in str(caught.value)
    assert compose("tiny/stage1", ["vlm=causal_lm"]).cfg.data.tasks.text_to_image == 1
    with pytest.raises(ConfigError, match="the system asks about pictures"):
        compose("laptop/vlm", ["vlm=causal_lm"])
