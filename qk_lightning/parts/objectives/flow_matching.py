"""Rectified-flow matching: mixing, target, loss, noise levels, and the sampler that fits them.

Not here: random numbers; uniforms and noise come from the caller, so that they can be functions
of the sample. B batch, latents [B, C, h, w], sigma [B] in [0, 1] (1 = pure noise).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from qk_lightning.parts.base import Part

if TYPE_CHECKING:
    from diffusers import FlowMatchEulerDiscreteScheduler


class FlowMatching(Part):
    """Straight paths from latents to noise; the head predicts their velocity.

    noisy_latents = (1 - sigma) * latents + sigma * noise,  velocity = noise - latents.

    Args:
        sigma_distribution: How training noise levels are drawn: uniform, or logit_normal
            (sigma = sigmoid(logit_mean + logit_std * z) with z standard normal).
        logit_mean: Mean of the logit; only for logit_normal.
        logit_std: Standard deviation of the logit; only for logit_normal.
        shift: Moves noise levels, in training and sampling, towards noise where above 1:
            sigma' = shift * sigma / (1 + (shift - 1) * sigma).

    Source: Lipman et al., arXiv 2210.02747; logit-normal and shift from Esser et al.,
        arXiv 2403.03206, sec. 3.1 and 5.3.2.
    """

    version = 1

    def __init__(
        self,
        *,
        sigma_distribution: Literal["uniform", "logit_normal"] = "uniform",
        logit_mean: float = 0.0,
        logit_std: float = 1.0,
        shift: float = 1.0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if sigma_distribution not in ("uniform", "logit_normal"):
            raise ValueError(
                f"sigma_distribution: {sigma_distribution!r}, expected uniform or logit_normal."
            )
        if shift <= 0 or logit_std <= 0:
            raise ValueError(f"shift: {shift}, logit_std: {logit_std}; expected both above 0.")
        self.sigma_distribution = sigma_distribution
        self.logit_mean, self.logit_std, self.shift = logit_mean, logit_std, shift

    def draw_sigma(self, uniform: Tensor) -> Tensor:
        """Turn uniform numbers into noise levels by the inverse distribution function.

        sigma = u, or sigmoid(logit_mean + logit_std * Phi^-1(u)); then the shift.

        Args:
            uniform: [B] in [0, 1].

        Returns:
            sigma [B] in [0, 1], increasing with `uniform`, in its dtype and on its device.
        """
        # On the CPU: float64 is needed at the ends, and not every device (MPS) has it.
        sigma = uniform.cpu().double()
        if self.sigma_distribution == "logit_normal":
            normal = torch.special.ndtri(sigma)
            sigma = torch.sigmoid(self.logit_mean + self.logit_std * normal)
        return self.shift_sigma(sigma).to(uniform.dtype).to(uniform.device)

    def shift_sigma(self, sigma: Tensor) -> Tensor:
        """Shift noise levels: shift * sigma / (1 + (shift - 1) * sigma).

        Args:
            sigma: Any shape, in [0, 1].

        Returns:
            Same shape, in [0, 1]; 0 and 1 stay.
        """
        return self.shift * sigma / (1 + (self.shift - 1) * sigma)

    def mix(self, latents: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """Mix: (1 - sigma) * latents + sigma * noise.

        Args:
            latents: [B, C, h, w].
            noise: [B, C, h, w], standard normal.
            sigma: [B].

        Returns:
            noisy_latents [B, C, h, w].
        """
        sigma = _per_sample(sigma, latents)
        return (1 - sigma) * latents + sigma * noise

    def target(self, latents: Tensor, noise: Tensor) -> Tensor:
        """Give the velocity that the head should predict: noise - latents.

        Args:
            latents: [B, C, h, w].
            noise: [B, C, h, w].

        Returns:
            velocity [B, C, h, w].
        """
        return noise - latents

    def loss(
        self, velocity: Tensor, latents: Tensor, noise: Tensor, weight: Tensor | None = None
    ) -> Tensor:
        """Mean squared error of the velocity for each sample.

        mean over C, h, w of weight * (velocity - (noise - latents))^2, in float32.

        Args:
            velocity: [B, C, h, w], predicted.
            latents: [B, C, h, w].
            noise: [B, C, h, w].
            weight: [B], or anything that broadcasts to the latents (such as [B, 1, h, w]).

        Returns:
            Loss [B].
        """
        error = (velocity.float() - self.target(latents, noise).float()).square()
        if weight is not None:
            error = error * (_per_sample(weight, error) if weight.ndim == 1 else weight)
        return error.flatten(1).mean(1)

    def scheduler(self, num_inference_steps: int) -> FlowMatchEulerDiscreteScheduler:
        """Set up diffusers' Euler sampler.

        Its timesteps are the noise levels themselves, from 1 down to the shifted 1/n; `step`
        with the last one ends at 0.

        Args:
            num_inference_steps: Evaluations of the head, n.

        Returns:
            A scheduler that is ready for `step(velocity, sigma, noisy_latents)`.

        Raises:
            ValueError: Fewer than 1 step.
        """
        from diffusers import FlowMatchEulerDiscreteScheduler

        if num_inference_steps < 1:
            raise ValueError(f"num_inference_steps: {num_inference_steps}, expected 1 or more.")
        # One "training timestep" makes diffusers' timesteps equal sigma; it applies the shift.
        scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1, shift=self.shift)
        sigmas = torch.linspace(1.0, 1.0 / num_inference_steps, num_inference_steps)
        scheduler.set_timesteps(sigmas=sigmas.tolist())
        return scheduler


def _per_sample(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like.dtype).view(-1, *[1] * (like.ndim - 1))
