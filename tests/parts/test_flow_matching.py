"""Flow matching: closed forms, the inverse distribution function, round trips."""

from __future__ import annotations

import pytest
import torch

from qk_lightning.parts.objectives.flow_matching import FlowMatching


def pair():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, 4, 2, 2, generator=generator, dtype=torch.float64)


def test_mixture_ends_at_latents_and_noise_and_moves_with_the_velocity():
    part, (latents, noise) = FlowMatching(), pair()
    sigma = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    noisy = part.mix(latents, noise, sigma)
    torch.testing.assert_close(noisy[0], latents[0])
    torch.testing.assert_close(noisy[1], 0.7 * latents[1] + 0.3 * noise[1])
    torch.testing.assert_close(noisy[2], noise[2])
    step = 1e-3
    moved = part.mix(latents, noise, sigma + step)
    velocity = part.target(latents, noise)
    torch.testing.assert_close((moved - noisy) / step, velocity)


def test_loss_is_one_mean_a_sample_and_weights_samples_or_cells():
    part, (latents, noise) = FlowMatching(), pair()
    velocity = part.target(latents, noise) + torch.tensor([0.0, 1.0, 2.0]).view(3, 1, 1, 1)
    loss = part.loss(velocity, latents, noise)
    torch.testing.assert_close(loss, torch.tensor([0.0, 1.0, 4.0]))
    weighted = part.loss(velocity, latents, noise, torch.tensor([1.0, 0.5, 0.25]))
    torch.testing.assert_close(weighted, torch.tensor([0.0, 0.5, 1.0]))
    cells = torch.zeros(3, 1, 2, 2)
    cells[:, :, 0, 0] = 1
    torch.testing.assert_close(part.loss(velocity, latents, noise, cells), loss / 4)


def test_sigma_is_the_inverse_distribution_function_of_its_law():
    uniform = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    torch.testing.assert_close(FlowMatching().draw_sigma(uniform), uniform)
    part = FlowMatching(sigma_distribution="logit_normal", logit_mean=0.5, logit_std=2.0)
    sigma = part.draw_sigma(uniform)
    normal = torch.distributions.Normal(0.5, 2.0)
    torch.testing.assert_close(normal.cdf(torch.logit(sigma)), uniform, atol=1e-9, rtol=1e-9)
    shifted = FlowMatching(shift=3.0).draw_sigma(uniform)
    torch.testing.assert_close(shifted, 3 * uniform / (1 + 2 * uniform))
    assert (shifted > uniform).all() and (sigma.diff() > 0).all()


@pytest.mark.parametrize("distribution", ["uniform", "logit_normal"])
def test_sigma_is_finite_at_the_ends_and_keeps_the_dtype(distribution):
    part = FlowMatching(sigma_distribution=distribution, shift=2.0)
    sigma = part.draw_sigma(torch.tensor([0.0, 0.5, 1.0]))
    assert sigma.dtype == torch.float32
    torch.testing.assert_close(sigma, torch.tensor([0.0, 2 / 3, 1.0]))


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("num_inference_steps", [1, 2, 7, 30])
def test_the_sampler_brings_noise_back_to_the_latents(shift, num_inference_steps):
    part, (latents, noise) = FlowMatching(shift=shift), pair().float()
    scheduler = part.scheduler(num_inference_steps)
    noisy = noise
    for sigma in scheduler.timesteps:
        torch.testing.assert_close(
            noisy, part.mix(latents, noise, sigma.expand(3)), atol=1e-5, rtol=1e-5
        )
        velocity = part.target(latents, noise)
        noisy = scheduler.step(velocity, sigma, noisy).prev_sample
    torch.testing.assert_close(noisy, latents, atol=1e-5, rtol=1e-5)


def test_timesteps_are_the_noise_levels_from_one_and_the_last_step_ends_at_zero():
    part = FlowMatching(shift=2.0)
    scheduler = part.scheduler(4)
    torch.testing.assert_close(scheduler.timesteps, scheduler.sigmas[:-1])
    expected = part.shift_sigma(torch.tensor([1.0, 0.75, 0.5, 0.25]))
    torch.testing.assert_close(scheduler.timesteps, expected)
    assert scheduler.sigmas[0] == 1 and scheduler.sigmas[-1] == 0


def test_what_cannot_work_is_refused():
    with pytest.raises(ValueError, match="num_inference_steps: 0"):
        FlowMatching().scheduler(0)
    with pytest.raises(ValueError, match="shift: 0"):
        FlowMatching(shift=0.0)
    with pytest.raises(ValueError, match="sigma_distribution"):
        FlowMatching(sigma_distribution="beta")


def test_mode_sampling_is_sd3s_law_drawn_the_other_way_round():
    from diffusers.training_utils import compute_density_for_timestep_sampling

    part = FlowMatching(sigma_distribution="mode", mode_scale=1.29)
    uniform = torch.rand(500, generator=torch.Generator().manual_seed(0))
    theirs = compute_density_for_timestep_sampling(
        "mode", 500, mode_scale=1.29, generator=torch.Generator().manual_seed(0)
    )
    torch.testing.assert_close(part.draw_sigma(1 - uniform), theirs, atol=1e-6, rtol=0)


@pytest.mark.parametrize("mode_scale", [-1.0, 0.0, 0.81, 2 / (torch.pi - 2)])
def test_mode_sampling_rises_with_the_uniform_number_from_0_to_1(mode_scale):
    part = FlowMatching(sigma_distribution="mode", mode_scale=mode_scale)
    sigma = part.draw_sigma(torch.linspace(0, 1, 1001, dtype=torch.float64))
    assert (sigma.diff() > -1e-15).all() and sigma[0] == 0 and sigma[-1] == pytest.approx(1)
    middle = ((sigma > 0.25) & (sigma < 0.75)).double().mean()
    assert (middle - 0.5) * mode_scale > 0 or mode_scale == 0


def test_resolution_multiplies_the_shift_by_the_root_of_the_number_of_cells():
    part = FlowMatching(shift=1.5, shift_by="resolution", base_cells=1024)
    assert part.shift_of(1024) == 1.5 and part.shift_of(128 * 128) == 6.0
    same = FlowMatching(shift=6.0)
    uniform = torch.linspace(0, 1, 11)
    torch.testing.assert_close(part.draw_sigma(uniform, 128 * 128), same.draw_sigma(uniform))
    assert torch.equal(part.scheduler(5, 128 * 128).sigmas, same.scheduler(5).sigmas)
    with pytest.raises(ValueError, match="needs the number of latent cells"):
        part.draw_sigma(uniform)


def test_flux_shifts_as_diffusers_dynamic_scheduler_does():
    from diffusers import FlowMatchEulerDiscreteScheduler

    part = FlowMatching(shift_by="flux")
    assert part.shift_of(4 * 256) == pytest.approx(torch.e**0.5)
    assert part.shift_of(4 * 4096) == pytest.approx(torch.e**1.15)
    theirs = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    theirs.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25], mu=(0.5 + 1.15) / 2)
    ours = part.scheduler(4, 4 * (4096 + 256) // 2)
    torch.testing.assert_close(ours.sigmas, theirs.sigmas)
    torch.testing.assert_close(
        part.draw_sigma(torch.tensor([0.75, 0.5]), 4 * (4096 + 256) // 2), theirs.sigmas[1:3]
    )


def test_weights_are_sd3s_and_have_a_bound():
    sigma = torch.tensor([0.0, 0.1, 0.5, 1.0])
    assert torch.equal(FlowMatching().weight(sigma), torch.ones(4))
    found = FlowMatching(weighting="sigma_sqrt").weight(sigma)
    torch.testing.assert_close(found, torch.tensor([1e6, 100.0, 4.0, 1.0]))
    found = FlowMatching(weighting="cosmap").weight(sigma[1:])
    expected = 2 / (torch.pi * torch.tensor([0.82, 0.5, 1.0]))
    torch.testing.assert_close(found, expected)


def test_options_out_of_range_are_refused():
    with pytest.raises(ValueError, match="mode_scale: 2.0, expected -1 to 1.7519"):
        FlowMatching(mode_scale=2.0)
    with pytest.raises(ValueError, match="weighting: 'snr', expected none, sigma_sqrt or cosmap"):
        FlowMatching(weighting="snr")
    with pytest.raises(ValueError, match="base_cells: 0"):
        FlowMatching(base_cells=0)
