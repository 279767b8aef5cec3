"""Denoising diffusion: closed forms of diffusers' tables, and samplers that undo the noise."""

from __future__ import annotations

import pytest
import torch

from qk_lightning.parts.objectives.ddpm import DDPM


def pair():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 4, 3, 2, 2, generator=generator)


def products(start=0.00085, end=0.012):
    betas = torch.linspace(start**0.5, end**0.5, 1000, dtype=torch.float64).square()
    return (1 - betas).cumprod(0)


def test_mixture_and_targets_follow_stable_diffusions_table():
    latents, noise = pair()
    sigma = torch.tensor([0.0, 0.25, 0.5, 0.999])
    kept = products()[[0, 250, 500, 999]].view(4, 1, 1, 1).float()
    part = DDPM()
    expected = kept.sqrt() * latents + (1 - kept).sqrt() * noise
    torch.testing.assert_close(part.mix(latents, noise, sigma), expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(part.target(latents, noise, sigma), noise)
    velocity = kept.sqrt() * noise - (1 - kept).sqrt() * latents
    part = DDPM(prediction="v_prediction")
    torch.testing.assert_close(part.target(latents, noise, sigma), velocity, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="needs the noise levels"):
        part.target(latents, noise)
    torch.testing.assert_close(
        part.loss(velocity + 2, latents, noise, sigma=sigma), torch.full((4,), 4.0)
    )


def test_every_timestep_is_drawn_alike_and_survives_the_way_to_the_head_and_back():
    part = DDPM()
    uniform = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    timesteps = part.timesteps(part.draw_sigma(uniform.float()))
    assert torch.equal(timesteps.bincount(), torch.full((1000,), 4))
    assert (timesteps.diff() >= 0).all()
    ends = part.draw_sigma(torch.tensor([0.0, 1.0]))
    assert ends.tolist() == pytest.approx([0.0, 0.999]) and ends.dtype == torch.float32
    assert part.timesteps(ends.bfloat16()).max() == 999


def test_snr_weights_have_min_snr_over_the_targets_own_weight():
    sigma = torch.tensor([0.0, 0.25, 0.5, 0.999])
    kept = products()[[0, 250, 500, 999]]
    ratio = (kept / (1 - kept)).float()
    assert torch.equal(DDPM().weight(sigma), torch.ones(4))
    torch.testing.assert_close(
        DDPM(snr_gamma=5.0).weight(sigma), ratio.clamp(max=5) / ratio, atol=1e-4, rtol=1e-4
    )
    velocity = DDPM(snr_gamma=5.0, prediction="v_prediction").weight(sigma)
    torch.testing.assert_close(velocity, ratio.clamp(max=5) / (ratio + 1), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("sampler", ["dpm_solver", "ddim"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("num_inference_steps", [1, 7, 30])
def test_a_head_that_knows_the_latents_brings_them_back(sampler, prediction, num_inference_steps):
    part, (latents, noise) = DDPM(sampler=sampler, prediction=prediction), pair()
    scheduler = part.scheduler(num_inference_steps)
    noisy = part.mix(latents, noise, part.levels(scheduler)[:1].expand(4))
    for timestep, sigma in zip(scheduler.timesteps, part.levels(scheduler), strict=True):
        kept = part.forward_process.alphas_cumprod[timestep]
        seen = (noisy - kept.sqrt() * latents) / (1 - kept).sqrt()
        noisy = scheduler.step(
            part.target(latents, seen, sigma.expand(4)), timestep, noisy
        ).prev_sample
    torch.testing.assert_close(noisy, latents, atol=1e-3, rtol=1e-3)


def test_ddim_is_diffusers_own_where_the_steps_divide_1000():
    from diffusers import DDIMScheduler

    part, (_, noise) = DDPM(sampler="ddim"), pair()
    ours, theirs = (
        part.scheduler(10),
        DDIMScheduler.from_config(dict(part.forward_process.config), set_alpha_to_one=True),
    )
    theirs.set_timesteps(10)
    assert torch.equal(ours.timesteps, theirs.timesteps)
    one, other = noise, noise
    for timestep in ours.timesteps:
        one = ours.step(one.tanh(), timestep, one).prev_sample
        other = theirs.step(other.tanh(), timestep, other).prev_sample
    torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("sampler", ["dpm_solver", "ddim"])
def test_any_number_of_steps_starts_at_the_last_timestep_and_repeats_none(sampler):
    part = DDPM(sampler=sampler)
    for number in (*range(1, 60, 2), 99, 250, 333, 1000):
        timesteps = part.scheduler(number).timesteps
        assert len(timesteps) == number and timesteps[0] == 999 and timesteps[-1] >= 0, number
        assert (timesteps.diff() < 0).all(), number
    torch.testing.assert_close(part.levels(part.scheduler(2)), torch.tensor([0.999, 0.499]))


def test_built_on_the_meta_device_its_table_is_real():
    with torch.device("meta"):
        part = DDPM()
    latents, noise = pair()
    sigma = torch.full((4,), 0.5)
    assert torch.equal(part.mix(latents, noise, sigma), DDPM().mix(latents, noise, sigma))


def test_what_cannot_work_is_refused():
    with pytest.raises(ValueError, match="num_inference_steps: 1001, expected 1 to 1000"):
        DDPM().scheduler(1001)
    with pytest.raises(ValueError, match="beta_start: 0.5, beta_end: 0.012"):
        DDPM(beta_start=0.5)
    with pytest.raises(ValueError, match="snr_gamma: 0.0"):
        DDPM(snr_gamma=0.0)
