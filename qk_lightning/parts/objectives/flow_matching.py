"""Rectified-flow matching: mixing, target, loss, noise levels, and the sampler that fits them.

Not here: random numbers; uniforms and noise come from the caller, so that they can be functions
of the sample. B batch, latents [B, C, h, w], sigma [B] in [0, 1] (1 = pure noise).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from qk_lightning.parts.objective_part import ObjectivePart, per_sample

if TYPE_CHECKING:
    from diffusers import FlowMatchEulerDiscreteScheduler

LARGEST_MODE_SCALE = 2 / (math.pi - 2)  # above it the mode distribution would fold over
SMALLEST_SIGMA = 1e-3  # of the weights: 1 / sigma^2 has no bound, diffusers' own table ends here
CELLS_A_TOKEN = 4  # Flux packs 2 x 2 latent cells


class FlowMatching(ObjectivePart):
    """Straight paths from latents to noise; the head predicts their velocity.

    noisy_latents = (1 - sigma) * latents + sigma * noise,  velocity = noise - latents.

    Args:
        sigma_distribution: How training noise levels are drawn: uniform, logit_normal
            (sigma = sigmoid(logit_mean + logit_std * z) with z standard normal), or mode
            (sigma = u - mode_scale * (sin^2(pi u / 2) - u) with u uniform).
        logit_mean: Mean of the logit; only for logit_normal.
        logit_std: Standard deviation of the logit; only for logit_normal.
        mode_scale: From -1 to 1.75, only for mode: above 0 favours middle levels, below 0 both
            ends.
        shift: Moves noise levels, in training and sampling, towards noise where above 1:
            sigma' = shift * sigma / (1 + (shift - 1) * sigma).
        shift_by: What else the shift is multiplied with, in training and sampling. none;
            resolution: sqrt(cells / base_cells), as SD3; flux: exp(mu) with mu from 0.5 at 256
            tokens of 2 x 2 cells on a line to 1.15 at 4096, as Flux.
        base_cells: Latent cells of the picture at which `shift` holds; only for resolution.
        weighting: Factor on the training loss: none; sigma_sqrt: 1 / sigma^2 (sigma at least
            0.001); cosmap: 2 / (pi (1 - 2 sigma + 2 sigma^2)).

    Source: Lipman et al., arXiv 2210.02747; logit-normal, mode, cosmap and both shifts from Esser
        et al., arXiv 2403.03206, sec. 3.1 and 5.3.2; diffusers pipelines/flux/pipeline_flux.py
        for Flux's constants.
    """

    version = 1

    def __init__(
        self,
        *,
        sigma_distribution: Literal["uniform", "logit_normal", "mode"] = "uniform",
        logit_mean: float = 0.0,
        logit_std: float = 1.0,
        mode_scale: float = 1.29,
        shift: float = 1.0,
        shift_by: Literal["none", "resolution", "flux"] = "none",
        base_cells: int = 1024,
        weighting: Literal["none", "sigma_sqrt", "cosmap"] = "none",
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        _check_names(sigma_distribution, shift_by, weighting)
        if shift <= 0 or logit_std <= 0 or base_cells < 1:
            raise ValueError(
                f"shift: {shift}, logit_std: {logit_std}, base_cells: {base_cells}; expected all "
                "above 0."
            )
        if not -1 <= mode_scale <= LARGEST_MODE_SCALE:
            raise ValueError(
                f"mode_scale: {mode_scale}, expected -1 to {LARGEST_MODE_SCALE:.4f}; beyond, "
                "levels would come in two ways; for example 1.29."
            )
        self.sigma_distribution, self.mode_scale = sigma_distribution, mode_scale
        self.logit_mean, self.logit_std = logit_mean, logit_std
        self.shift, self.shift_by, self.base_cells = shift, shift_by, base_cells
        self.weighting = weighting

    def draw_sigma(self, uniform: Tensor, num_cells: int | None = None) -> Tensor:
        """Turn uniform numbers into noise levels by the inverse distribution function.

        sigma = u, or sigmoid(logit_mean + logit_std * Phi^-1(u)), or u - mode_scale *
        (sin^2(pi u / 2) - u), which is SD3's f_mode(1 - u): the same law, increasing; then the
        shift.

        Args:
            uniform: [B] in [0, 1].
            num_cells: Latent cells of a picture, h * w; needed unless `shift_by` is none.

        Returns:
            sigma [B] in [0, 1], increasing with `uniform`, in its dtype and on its device.
        """
        # On the CPU: float64 is needed at the ends, and not every device (MPS) has it.
        sigma = uniform.cpu().double()
        if self.sigma_distribution == "logit_normal":
            normal = torch.special.ndtri(sigma)
            sigma = torch.sigmoid(self.logit_mean + self.logit_std * normal)
        elif self.sigma_distribution == "mode":
            sigma = sigma - self.mode_scale * (torch.sin(math.pi * sigma / 2).square() - sigma)
        return self.shift_sigma(sigma, num_cells).to(uniform.dtype).to(uniform.device)

    def shift_of(self, num_cells: int | None = None) -> float:
        """Give the shift of a picture: shift, times sqrt(cells / base_cells) or exp(mu).

        Args:
            num_cells: Latent cells of a picture, h * w; needed unless `shift_by` is none.

        Returns:
            The shift, above 0.

        Raises:
            ValueError: `num_cells` is needed and missing.
        """
        if self.shift_by == "none":
            return self.shift
        if num_cells is None:
            raise ValueError(f"shift_by: {self.shift_by!r} needs the number of latent cells.")
        if self.shift_by == "resolution":
            return self.shift * math.sqrt(num_cells / self.base_cells)
        return self.shift * math.exp(_flux_mu(num_cells / CELLS_A_TOKEN))

    def shift_sigma(self, sigma: Tensor, num_cells: int | None = None) -> Tensor:
        """Shift noise levels: shift * sigma / (1 + (shift - 1) * sigma).

        Args:
            sigma: Any shape, in [0, 1].
            num_cells: Latent cells of a picture, h * w; needed unless `shift_by` is none.

        Returns:
            Same shape, in [0, 1]; 0 and 1 stay.
        """
        shift = self.shift_of(num_cells)
        return shift * sigma / (1 + (shift - 1) * sigma)

    def mix(self, latents: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """Mix: (1 - sigma) * latents + sigma * noise.

        Args:
            latents: [B, C, h, w].
            noise: [B, C, h, w], standard normal.
            sigma: [B].

        Returns:
            noisy_latents [B, C, h, w].
        """
        sigma = per_sample(sigma, latents)
        return (1 - sigma) * latents + sigma * noise

    def target(self, latents: Tensor, noise: Tensor, sigma: Tensor | None = None) -> Tensor:
        """Give the velocity that the head should predict: noise - latents.

        Args:
            latents: [B, C, h, w].
            noise: [B, C, h, w].
            sigma: No effect: the velocity is the same all along the path.

        Returns:
            velocity [B, C, h, w].
        """
        return noise - latents

    def weight(self, sigma: Tensor) -> Tensor:
        """Weight the training loss of each sample, as `weighting` says.

        Args:
            sigma: [B].

        Returns:
            [B], ones for none.
        """
        if self.weighting == "none":
            return torch.ones_like(sigma)
        from diffusers.training_utils import compute_loss_weighting_for_sd3

        return compute_loss_weighting_for_sd3(
            self.weighting, sigma.float().clamp_min(SMALLEST_SIGMA)
        )

    def scheduler(
        self, num_inference_steps: int, num_cells: int | None = None
    ) -> FlowMatchEulerDiscreteScheduler:
        """Set up diffusers' Euler sampler.

        Its timesteps are the noise levels themselves, from 1 down to the shifted 1/n; `step`
        with the last one ends at 0.

        Args:
            num_inference_steps: Evaluations of the head, n.
            num_cells: Latent cells of a picture, h * w; needed unless `shift_by` is none.

        Returns:
            A scheduler that is ready for `step(velocity, sigma, noisy_latents)`.

        Raises:
            ValueError: Fewer than 1 step.
        """
        from diffusers import FlowMatchEulerDiscreteScheduler

        if num_inference_steps < 1:
            raise ValueError(f"num_inference_steps: {num_inference_steps}, expected 1 or more.")
        # One "training timestep" makes diffusers' timesteps equal sigma; it applies the shift.
        shift = self.shift_of(num_cells)
        scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1, shift=shift)
        sigmas = torch.linspace(1.0, 1.0 / num_inference_steps, num_inference_steps)
        scheduler.set_timesteps(sigmas=sigmas.tolist())
        return scheduler

    def levels(self, scheduler: FlowMatchEulerDiscreteScheduler) -> Tensor:
        """Tell the noise levels of a scheduler's timesteps.

        Args:
            scheduler: As `scheduler` made it.

        Returns:
            sigma [n], from 1 down; the 0 that the last step ends at is not among them.
        """
        return scheduler.sigmas[:-1]


def _flux_mu(num_tokens: float) -> float:
    """Flux's logarithm of the shift: a line through (256, 0.5) and (4096, 1.15)."""
    return 0.5 + (1.15 - 0.5) * (num_tokens - 256) / (4096 - 256)


def _check_names(sigma_distribution: str, shift_by: str, weighting: str) -> None:
    offered = {
        "sigma_distribution": (sigma_distribution, ("uniform", "logit_normal", "mode")),
        "shift_by": (shift_by, ("none", "resolution", "flux")),
        "weighting": (weighting, ("none", "sigma_sqrt", "cosmap")),
    }
    for key, (value, names) in offered.items():
        if value not in names:
            raise ValueError(f"{key}: {value!r}, expected {', '.join(names[:-1])} or {names[-1]}.")
