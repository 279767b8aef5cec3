"""Dropout policies by closed form, guidance as named, and samplers on a known distribution."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_query_kontext import batch_of, build

from qk_lightning.config.errors import ConfigError
from qk_lightning.data.sample import TASKS
from qk_lightning.parts.objectives.ddpm import DDPM
from qk_lightning.parts.objectives.flow_matching import FlowMatching
from qk_lightning.systems.dropout import Shares, dropped_conditions

pytestmark = pytest.mark.usefixtures("tiny_presets")
SHARES = Shares(prompt=0.1, image=0.2, joint=0.05)
GRID = (torch.arange(1000) + 0.5) / 1000
METAQUERY = (
    "system.dropout=metaquery",
    "system.prompt_dropout=0.1",
    "system.image_dropout=0.5",
    "system.joint_dropout=0.1",
)


def rates(policy: str, task: str) -> tuple[float, float, float]:
    """Return the shares that lose the prompt alone, the images alone, and both."""
    has_images = task != "text_to_image"
    prompt, image = dropped_conditions(policy, task, has_images, GRID, SHARES)
    kinds = (prompt & ~image, image & ~prompt, prompt & image)
    return tuple(round(kind.double().mean().item(), 6) for kind in kinds)


def test_metaquery_drops_by_task() -> None:
    one_draw = (0.1, 0.2, 0.05)
    expected = {
        "text_to_image": (0.1, 0, 0),
        "reconstruction": (0, 0.2, 0),
        "transformation": (0, 0.2, 0),
        "editing": (0, 0.2, 0),
        "customised": one_draw,
        "multi_subject": one_draw,
    }
    assert {task: rates("metaquery", task) for task in TASKS} == expected
    assert rates("instruction", "text_to_image") == (0.1, 0, 0)
    assert {rates("instruction", task) for task in TASKS[1:]} == {one_draw}


def test_dropped_images_turn_black_sample_by_sample_and_keep_the_layout() -> None:
    system, data = build(*METAQUERY, "system.low_level=true")
    batch = batch_of(data, "editing")
    latents = system.autoencoder.encode(batch.images.flatten(0, 1)).unflatten(0, (2, 1))
    many = replace(
        batch,
        ids=["i"] * 40,
        index=torch.arange(40),
        prompts=["x"] * 40,
        images=batch.images[:1].expand(40, -1, -1, -1, -1),
        image_latents=latents[:1].expand(40, -1, -1, -1, -1),
    )
    dropped = system.drop_conditions(many)
    black = (dropped.images == -1).flatten(1).all(1)
    assert 8 < black.sum() < 32 and dropped.roles == ("source",)
    assert dropped.prompts == ["x"] * 40, "an edit keeps its instruction"
    assert torch.equal(dropped.images[~black], many.images[~black])
    assert torch.equal(dropped.images, system.drop_conditions(many).images)
    part = replace(many, ids=["i"], index=many.index[7:8], prompts=["x"], image_latents=None)
    part = replace(part, images=many.images[7:8])
    assert torch.equal(system.drop_conditions(part).images[0], dropped.images[7])
    expected = system.autoencoder.encode(torch.full_like(many.images[0], -1.0))
    for found in dropped.image_latents[black]:
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(dropped.image_latents[~black], many.image_latents[~black])


def test_guidance_takes_away_images_as_training_did() -> None:
    system, data = build(*METAQUERY, "system.low_level=true")
    batch = batch_of(data, "editing")
    weight, condition = system._guidance_terms(batch, 3.0, 1.5)[2]
    assert weight == -0.5 and condition.roles == ("source",)
    black = torch.full_like(batch.images.flatten(0, 1), -1.0)
    torch.testing.assert_close(
        condition.image_latents.flatten(0, 1), system.autoencoder.encode(black)
    )


def test_guidance_by_name() -> None:
    system, data = build("sampling.guidance=none")
    batch = batch_of(data, "editing")
    weights = {"none": [1.0], "text": [3.0, -2.0], "text_and_image": [3.0, -1.5, -0.5]}
    for guidance, expected in weights.items():
        system.config.sampling.guidance = guidance
        assert [weight for weight, _ in system._guidance_terms(batch, 3.0, 1.5)] == expected
    for context in ("queries", "both"):  # with no prompt, images show in the kontext alone
        system.context = context
        terms = [condition for _, condition in system._guidance_terms(batch, 3.0, 1.5)]
        assert not torch.equal(terms[1].states[:, -2:], terms[2].states[:, -2:]), context


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("system.joint_dropout=0.1",), "system.joint_dropout"),
        (("system.dropout=metaquery", "system.image_dropout=0.95"), "one draw decides"),
        (("system.dropout=metaquery", "system.joint_dropout=2"), "a share from 0 to 1"),
    ],
)
def test_shares_that_cannot_be_are_refused(overrides: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build(*overrides)


OBJECTIVES = {
    "flow": FlowMatching(shift=3.0),
    "flow by resolution": FlowMatching(shift_by="resolution"),
    "epsilon": DDPM(),
    "v": DDPM(prediction="v_prediction"),
    "ddim": DDPM(sampler="ddim"),
}


def best_prediction(objective, noisy, sigma, mean, std):
    """Return what a perfect head says where latents are normal: the target's conditional mean."""
    kept, mixed = 1 - sigma[0], sigma[0]
    if isinstance(objective, DDPM):
        product = objective.forward_process.alphas_cumprod[objective.timesteps(sigma)[0]]
        kept, mixed = product.sqrt(), (1 - product).sqrt()
    surprise = (noisy - kept * mean) / (kept**2 * std**2 + mixed**2)
    latents, noise = mean + kept * std**2 * surprise, mixed * surprise
    return objective.target(latents, noise, sigma)


def test_a_perfect_head_draws_from_the_distribution_of_the_data() -> None:
    system, data = build("sampling.num_inference_steps=100")
    batch = batch_of(data, "text_to_image")
    noise = torch.randn(2, 4, 64, 64, generator=torch.Generator().manual_seed(0))
    mean, std = 0.7, 0.5
    asked: list[float] = []

    def velocity(noisy, sigma, condition):
        asked.append(sigma[0].item())
        return best_prediction(system.objective, noisy, sigma, mean, std)

    system.velocity = velocity
    for name, objective in OBJECTIVES.items():
        system.objective = objective
        asked.clear()
        latents = system.sample(batch, noise)
        assert latents.mean() == pytest.approx(mean, abs=0.03), name
        assert latents.std() == pytest.approx(std, abs=0.03), name
        assert asked == sorted(asked, reverse=True) and asked[0] > 0.99 and len(asked) == 100


def test_ddpm_trains_and_draws_in_the_system() -> None:
    system, data = build("objective=ddpm", "objective.snr_gamma=5")
    batch = batch_of(data, "text_to_image")
    optimizer = torch.optim.AdamW(system.parameters(), lr=1e-2)
    for prediction in ("epsilon", "v_prediction"):
        system.objective = DDPM(prediction=prediction, snr_gamma=5.0)
        losses = []
        for _ in range(6):
            optimizer.zero_grad()
            loss = system.training_step(batch, 0)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < losses[0], prediction
        assert torch.isfinite(system.predict_step(batch, 0)).all()


def test_weights_act_in_training_and_not_in_validation() -> None:
    plain, data = build()
    weighted, _ = build("objective.weighting=cosmap")
    batch = batch_of(data, "text_to_image")
    logged = []
    for system in (plain, weighted):
        system.log = lambda name, value, **_: logged.append((name, value.item()))
        system.validation_step(batch, 0)
    assert logged[0] == logged[2]
    assert plain.training_step(batch, 0) != weighted.training_step(batch, 0)
