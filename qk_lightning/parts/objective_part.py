"""What every objective has: noise levels, mixing, target, loss, and the sampler that fits them.

Not here: random numbers; uniforms and noise come from the caller, so that they can be functions
of the sample. B batch, latents [B, C, h, w], sigma [B] in [0, 1] (1 = pure noise).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from qk_lightning.parts.base import Part


class ObjectivePart(Part):
    """A way to train a head and to draw with it; the head returns what `target` gives.

    Attributes:
        max_inference_steps: Most steps that its sampler can take; None for any number.
    """

    max_inference_steps: int | None = None

    def draw_sigma(self, uniform: Tensor, num_cells: int | None = None) -> Tensor:
        """Turn uniform numbers into noise levels by the inverse distribution function.

        Args:
            uniform: [B] in [0, 1].
            num_cells: Latent cells of a picture, h * w; needed where levels depend on it.

        Returns:
            sigma [B] in [0, 1], never falling with `uniform`, in its dtype and on its device.
        """
        raise NotImplementedError

    def mix(self, latents: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """Mix latents with noise.

        Args:
            latents: [B, C, h, w].
            noise: [B, C, h, w], standard normal.
            sigma: [B].

        Returns:
            noisy_latents [B, C, h, w].
        """
        raise NotImplementedError

    def target(self, latents: Tensor, noise: Tensor, sigma: Tensor | None = None) -> Tensor:
        """Give what the head should predict.

        Args:
            latents: [B, C, h, w].
            noise: [B, C, h, w].
            sigma: [B], for targets that depend on it.

        Returns:
            [B, C, h, w].
        """
        raise NotImplementedError

    def weight(self, sigma: Tensor) -> Tensor:
        """Weight the training loss of each sample.

        Args:
            sigma: [B].

        Returns:
            [B], ones where the objective has no weighting.
        """
        raise NotImplementedError

    def loss(
        self,
        velocity: Tensor,
        latents: Tensor,
        noise: Tensor,
        weight: Tensor | None = None,
        sigma: Tensor | None = None,
    ) -> Tensor:
        """Mean squared error of the head's prediction for each sample.

        mean over C, h, w of weight * (velocity - target)^2, in float32.

        Args:
            velocity: [B, C, h, w], predicted; the velocity of flow matching, or the target of
                another objective.
            latents: [B, C, h, w].
            noise: [B, C, h, w].
            weight: [B], or anything that broadcasts to the latents (such as [B, 1, h, w]).
            sigma: [B], for targets that depend on it.

        Returns:
            Loss [B].
        """
        error = (velocity.float() - self.target(latents, noise, sigma).float()).square()
        if weight is not None:
            error = error * (per_sample(weight, error) if weight.ndim == 1 else weight)
        return error.flatten(1).mean(1)

    def scheduler(self, num_inference_steps: int, num_cells: int | None = None) -> Any:
        """Set up the sampler.

        Args:
            num_inference_steps: Evaluations of the head, n.
            num_cells: Latent cells of a picture, h * w; needed where levels depend on it.

        Returns:
            A diffusers scheduler that starts from standard normal noise, ready for
            `step(prediction, timestep, noisy_latents)` with each of its `timesteps`.
        """
        raise NotImplementedError

    def levels(self, scheduler: Any) -> Tensor:
        """Tell the noise level that the head is asked at, for each of a scheduler's timesteps.

        Args:
            scheduler: As `scheduler` made it.

        Returns:
            sigma [n].
        """
        raise NotImplementedError


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """Shape one number a sample so that it multiplies the sample's latents.

    Args:
        values: [B].
        like: [B, ...].

    Returns:
        [B, 1, ...], in the dtype of `like`.
    """
    return values.to(like.dtype).view(-1, *[1] * (like.ndim - 1))
