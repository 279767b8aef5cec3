"""Denoising diffusion as Stable Diffusion 1.5 has it: 1000 timesteps, epsilon or v prediction.

Not here: random numbers; uniforms and noise come from the caller. The mathematics is diffusers'.
B batch, latents [B, C, h, w], sigma [B] = timestep / 1000, from 0 to 0.999.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from qk_lightning.parts.objective_part import ObjectivePart

if TYPE_CHECKING:
    from diffusers import DDPMScheduler, DPMSolverMultistepScheduler

NUM_TIMESTEPS = 1000  # what pretrained heads know, and what heads multiply sigma with


class DDPM(ObjectivePart):
    """Variance-preserving diffusion over 1000 timesteps.

    noisy_latents = sqrt(a_t) * latents + sqrt(1 - a_t) * noise, with a_t the product of 1 - beta
    up to t. The head predicts the noise, or v = sqrt(a_t) * noise - sqrt(1 - a_t) * latents.

    Args:
        prediction: What the head predicts: epsilon (the noise) or v_prediction.
        beta_schedule: How beta goes from beta_start to beta_end: scaled_linear (its square root
            on a line), linear, or squaredcos_cap_v2, which uses neither.
        beta_start: First beta.
        beta_end: Last beta.
        sampler: dpm_solver (DPM-Solver++ of second order), or ddim (of first order: the same
            thing without noise).
        snr_gamma: Weights the training loss by min(SNR, snr_gamma) / SNR of the noise (for v:
            / (SNR + 1)); null for equal weights.

    Source: Ho et al., arXiv 2006.11239; Rombach et al., arXiv 2112.10752 (the betas); Salimans &
        Ho, arXiv 2202.00512 (v); Hang et al., arXiv 2303.09556, sec. 3.4 (SNR weights); Lin et
        al., arXiv 2305.08891, sec. 3.3 (sampling from the last timestep on); Lu et al., arXiv
        2206.00927, sec. 4.1 (DDIM as the first order).
    """

    version = 1
    max_inference_steps = NUM_TIMESTEPS

    def __init__(
        self,
        *,
        prediction: Literal["epsilon", "v_prediction"] = "epsilon",
        beta_schedule: Literal["scaled_linear", "linear", "squaredcos_cap_v2"] = "scaled_linear",
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        sampler: Literal["dpm_solver", "ddim"] = "dpm_solver",
        snr_gamma: float | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if not 0 < beta_start <= beta_end < 1:
            raise ValueError(
                f"beta_start: {beta_start}, beta_end: {beta_end}; expected "
                "0 < beta_start <= beta_end < 1, for example 0.00085 and 0.012."
            )
        if snr_gamma is not None and snr_gamma <= 0:
            raise ValueError(f"snr_gamma: {snr_gamma}, expected a number above 0, for example 5.")
        self.prediction, self.sampler, self.snr_gamma = prediction, sampler, snr_gamma

    @functools.cached_property
    def forward_process(self) -> DDPMScheduler:
        """The table of a_t: diffusers' scheduler, made when first used.

        Not in the constructor, which may run on the meta device, where its tables would be lost.
        """
        from diffusers import DDPMScheduler

        return DDPMScheduler(
            num_train_timesteps=NUM_TIMESTEPS,
            beta_start=self.hparams["beta_start"],
            beta_end=self.hparams["beta_end"],
            beta_schedule=self.hparams["beta_schedule"],
            prediction_type=self.prediction,
            clip_sample=False,
            timestep_spacing="trailing",
        )

    def draw_sigma(self, uniform: Tensor, num_cells: int | None = None) -> Tensor:
        """Turn uniform numbers into timesteps, all equally likely: floor(1000 u) / 1000.

        Args:
            uniform: [B] in [0, 1].
            num_cells: No effect.

        Returns:
            sigma [B] from 0 to 0.999, never falling with `uniform`, in its dtype.
        """
        timesteps = (uniform.cpu().double() * NUM_TIMESTEPS).floor().clamp(0, NUM_TIMESTEPS - 1)
        return (timesteps / NUM_TIMESTEPS).to(uniform.dtype).to(uniform.device)

    def timesteps(self, sigma: Tensor) -> Tensor:
        """Turn noise levels back into timesteps.

        Args:
            sigma: [B].

        Returns:
            int64 [B] from 0 to 999.
        """
        return (sigma.float() * NUM_TIMESTEPS).round().long().clamp(0, NUM_TIMESTEPS - 1)

    def mix(self, latents: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """Mix: sqrt(a_t) * latents + sqrt(1 - a_t) * noise.

        Args:
            latents: [B, C, h, w].
            noise: [B, C, h, w], standard normal.
            sigma: [B].

        Returns:
            noisy_latents [B, C, h, w].
        """
        return self.forward_process.add_noise(latents, noise, self.timesteps(sigma))

    def target(self, latents: Tensor, noise: Tensor, sigma: Tensor | None = None) -> Tensor:
        """Give what the head should predict: the noise, or v.

        Args:
            latents: [B, C, h, w].
            noise: [B, C, h, w].
            sigma: [B]; only v needs it.

        Returns:
            [B, C, h, w].

        Raises:
            ValueError: v without sigma.
        """
        if self.prediction == "epsilon":
            return noise
        if sigma is None:
            raise ValueError("prediction: v_prediction needs the noise levels, sigma.")
        return self.forward_process.get_velocity(latents, noise, self.timesteps(sigma))

    def weight(self, sigma: Tensor) -> Tensor:
        """Weight the training loss of each sample: min(SNR, gamma) / SNR, for v / (SNR + 1).

        Args:
            sigma: [B].

        Returns:
            [B], ones without snr_gamma.
        """
        if self.snr_gamma is None:
            return torch.ones_like(sigma)
        from diffusers.training_utils import compute_snr

        ratio = compute_snr(self.forward_process, self.timesteps(sigma))
        return ratio.clamp(max=self.snr_gamma) / (ratio + (self.prediction == "v_prediction"))

    def scheduler(
        self, num_inference_steps: int, num_cells: int | None = None
    ) -> DPMSolverMultistepScheduler:
        """Set up the sampler, from timestep 999 down, the last step to clean latents.

        Args:
            num_inference_steps: Evaluations of the head, n.
            num_cells: No effect.

        Returns:
            A scheduler that is ready for `step(prediction, timestep, noisy_latents)`.

        Raises:
            ValueError: Fewer than 1 step, or more than 1000.
        """
        from diffusers import DPMSolverMultistepScheduler

        if not 1 <= num_inference_steps <= NUM_TIMESTEPS:
            raise ValueError(
                f"num_inference_steps: {num_inference_steps}, expected 1 to {NUM_TIMESTEPS}."
            )
        # diffusers' DDIMScheduler takes steps of floor(1000 / n), and so ends in noise where n
        # does not divide 1000.
        order = 1 if self.sampler == "ddim" else 2
        config = dict(self.forward_process.config)
        scheduler = DPMSolverMultistepScheduler.from_config(config, solver_order=order)
        scheduler.set_timesteps(num_inference_steps)
        return scheduler

    def levels(self, scheduler: DPMSolverMultistepScheduler) -> Tensor:
        """Tell the noise levels of a scheduler's timesteps.

        Args:
            scheduler: As `scheduler` made it.

        Returns:
            sigma [n], timestep / 1000.
        """
        return scheduler.timesteps.float() / NUM_TIMESTEPS
