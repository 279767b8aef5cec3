"""The system: who gets gradients, what the condition is made of, guidance, fair noise."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from qk_lightning.assembly.build import open_world
from qk_lightning.assembly.weights import starting_entries
from qk_lightning.config.compose import compose
from qk_lightning.data.sample import Batch
from qk_lightning.systems.base import build_system
from qk_lightning.systems.dropout import without_images
from qk_lightning.systems.query_kontext import QueryKontext

pytestmark = pytest.mark.usefixtures("tiny_presets")


def build(*overrides: str, preset: str = "tiny/stage1") -> tuple[QueryKontext, object]:
    """Return a built system and its data."""
    cfg = compose(preset, overrides).cfg
    system = build_system(cfg, starting_entries(cfg, QueryKontext.families, None))
    system.configure_model()
    world = open_world(cfg.data.world)
    world.prepare()
    system.log = lambda *args, **kwargs: None
    return system, system.data_module(world, None)


def batch_of(data: object, task: str) -> Batch:
    return data.val_batches(task, 2, 2)[0]


def test_gradients_reach_all_that_learns_and_nothing_that_is_frozen() -> None:
    system, data = build("system.prompt_dropout=0")
    for task in ("text_to_image", "reconstruction"):
        system.training_step(batch_of(data, task), 0).backward()
    for name, parameter in system.named_parameters():
        learns = not name.startswith("autoencoder") and (
            not name.startswith("vlm") or ".lora_" in name
        )
        assert parameter.requires_grad == learns, name
        silent = "pooled" in name or "text_embedder" in name  # fed with zeros
        assert (parameter.grad is not None) == learns, name
        if learns and not silent and ".lora_A" not in name:  # B is zero, so A waits a step
            assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("context", ["text", "queries", "both"])
def test_the_condition_is_text_then_kontext(context: str) -> None:
    system, data = build(f"system.context={context}")
    batch = batch_of(data, "text_to_image")
    condition = system.condition(batch)
    inputs = system.vlm.prepare(batch.prompts, None)
    longest = max(1, int(inputs.prompt_mask.sum(1).max()))
    num_text = 0 if context == "queries" else longest
    num_kontext = 0 if context == "text" else 2
    assert condition.states.shape == (2, num_text + num_kontext, 32)
    assert condition.mask[:, num_text:].all()


def test_an_empty_prompt_is_a_condition_too() -> None:
    for context in ("text", "queries", "both"):
        system, data = build(f"system.context={context}")
        batch = replace(batch_of(data, "text_to_image"), prompts=["", ""])
        assert torch.isfinite(system.predict_step(batch, 0)).all()


def test_low_level_tokens_are_for_tasks_that_keep_pixels_or_identity() -> None:
    system, data = build("system.low_level=true", "data.tasks={text_to_image: 1}")
    assert system.condition(batch_of(data, "editing")).roles == ("source",)
    assert system.condition(batch_of(data, "multi_subject")).roles == ("reference", "reference")
    for alone in ("reconstruction", "transformation", "text_to_image"):
        assert system.condition(batch_of(data, alone)).image_latents is None


def test_guidance_of_one_is_the_plain_prediction_and_more_moves_away_from_nothing() -> None:
    system, data = build("system.low_level=true")
    batch = batch_of(data, "editing")
    assert [weight for weight, _ in system._guidance_terms(batch, 1.0, 1.0)] == [1.0]
    assert [weight for weight, _ in system._guidance_terms(batch, 3.0, 1.0)] == [3.0, -2.0]
    terms = system._guidance_terms(batch, 3.0, 1.5)
    assert [weight for weight, _ in terms] == [3.0, -1.5, -0.5]
    assert terms[2][1].image_latents is None
    assert terms[1][1].image_latents is not None


def test_prompts_are_dropped_by_sample_and_images_by_group() -> None:
    system, data = build("system.prompt_dropout=0.5", "system.image_dropout=1.0")
    batch = batch_of(data, "editing")
    indices = torch.arange(200)
    many = replace(batch, index=indices, prompts=["x"] * 200, ids=["i"] * 200)
    dropped = system.drop_conditions(many)
    assert 60 < dropped.prompts.count("") < 140
    assert dropped.prompts == system.drop_conditions(many).prompts
    assert dropped.images is None
    assert without_images(batch).roles == ()


def test_noise_belongs_to_the_sample_whatever_the_batch() -> None:
    from qk_lightning.data.randomness import normal, stratified, uniform

    whole = normal(0, "noise", torch.arange(6), (2, 3))
    assert torch.equal(whole[2:4], normal(0, "noise", torch.tensor([2, 3]), (2, 3)))
    assert not torch.equal(whole[0], whole[1])
    assert not torch.equal(whole, normal(1, "noise", torch.arange(6), (2, 3)))
    assert not torch.equal(uniform(0, "sigma", torch.arange(6)), uniform(0, "b", torch.arange(6)))
    levels = stratified(64)
    assert torch.histc(levels, bins=8, min=0, max=1).min() >= 7


def test_another_query_count_does_not_move_where_other_parts_start() -> None:
    (few, _), (many, _) = (build(f"queries.num_queries={number}") for number in (1, 7))
    for family in ("connector", "head", "autoencoder", "vlm"):
        for one, other in zip(
            few.parts[family].parameters(), many.parts[family].parameters(), strict=True
        ):
            assert torch.equal(one, other), family
