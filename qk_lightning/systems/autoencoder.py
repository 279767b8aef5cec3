"""Training a small latent codec: the laptop's stand-in for the autoencoders of large models.

B batch, H x W pixels.
"""

from __future__ import annotations

from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import Tensor
from torch.nn import functional
from torchmetrics.functional.image import peak_signal_noise_ratio

from qk_lightning.assembly.weights import Entry
from qk_lightning.data.module import DataModule
from qk_lightning.data.sample import Batch
from qk_lightning.systems.base import System

STATISTICS_BATCHES = 16
COMPONENT_BATCHES = 256
MAX_PSNR = 100.0


class Autoencoder(System):
    """Reconstruction of a world's images, through a Gaussian posterior, plain or linear codec.

    loss = L1 + mse_weight MSE + gradient_weight L1 of finite differences + kl_weight KL, the last
    for a codec with a posterior (kl, qwen_image); a linear codec is solved in closed form when the
    training ends, whatever its steps were.

    Args:
        config: the resolved configuration.
        entries: where the part's weights come from.
        root: the folder that holds the run folders.
        mse_weight: weight of the squared error.
        gradient_weight: weight of the error of horizontal and vertical differences (edges).
        kl_weight: weight of the divergence from N(0, 1), a latent number.

    Source: Rombach et al., arXiv 2112.10752, sec. 3.1, without the adversarial term.
    """

    families = ("autoencoder",)
    wired = ("config", "entries", "root")

    def __init__(
        self,
        *,
        config: DictConfig,
        entries: list[Entry],
        root: Path | None = None,
        mse_weight: float = 1.0,
        gradient_weight: float = 0.5,
        kl_weight: float = 1e-4,
    ) -> None:
        super().__init__(config, entries, root)
        self.mse_weight = mse_weight
        self.gradient_weight = gradient_weight
        self.kl_weight = kl_weight

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of one micro-batch of target images [B, 3, H, W]."""
        target = batch.target
        if self.is_linear:  # the closed form of `on_trained` replaces whatever is learned here
            return functional.mse_loss(self.autoencoder(target), target)
        raw, divergence = self._draw_raw(target)
        images = self.autoencoder.decode(self.autoencoder.normalise(raw))
        error = functional.l1_loss(images, target)
        error = error + self.mse_weight * functional.mse_loss(images, target)
        error = error + self.gradient_weight * difference_loss(images, target)
        self.log_dict({"train/error": error, "train/kl": divergence}, batch_size=len(raw))
        return error + self.kl_weight * divergence

    def _draw_raw(self, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return raw latents and their divergence a number; a codec without a posterior has 0."""
        if not hasattr(self.autoencoder, "posterior"):
            raw = self.autoencoder.encode_raw(target)
            return raw, raw.new_zeros(())
        posterior = self.autoencoder.posterior(target)
        raw = posterior.sample()
        return raw, posterior.kl().mean() / raw[0].numel()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log PSNR, a mean over images in dB, of reconstructions through the posterior's mode."""
        images = self.autoencoder(batch.target).clamp(-1, 1)
        psnr = image_psnr(images, batch.target)
        self.log("val/psnr", psnr.mean(), batch_size=len(psnr))
        self.log("val/loss", functional.l1_loss(images, batch.target), batch_size=len(psnr))

    @torch.no_grad()
    def on_trained(self, data: DataModule) -> None:
        """Give the latents unit variance; a linear codec is solved as a whole."""
        loader = iter(data.train_dataloader())
        if self.is_linear:
            targets = [next(loader).target for _ in range(COMPONENT_BATCHES)]
            self.autoencoder.fit_components(torch.cat(targets).to(self.device))
            return
        raw = [
            self.autoencoder.encode_raw(next(loader).target.to(self.device))
            for _ in range(STATISTICS_BATCHES)
        ]
        channels = torch.cat(raw).transpose(0, 1).flatten(1)
        self.autoencoder.set_statistics(channels.mean(1), channels.std(1))

    @property
    def is_linear(self) -> bool:
        """Whether the codec has a closed form in place of a posterior."""
        return hasattr(self.autoencoder, "fit_components")


def difference_loss(images: Tensor, target: Tensor) -> Tensor:
    """Return the L1 error of neighbouring pixels' differences.

    Args:
        images: [B, 3, H, W].
        target: [B, 3, H, W].

    Returns:
        A scalar.
    """
    error = images - target
    return error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()


def image_psnr(images: Tensor, target: Tensor) -> Tensor:
    """Return each image's peak signal-to-noise ratio in dB, for a range of 2 ([-1, 1]).

    Args:
        images: [B, 3, H, W].
        target: [B, 3, H, W].

    Returns:
        [B], at most 100, which stands for equal images.
    """
    psnr = peak_signal_noise_ratio(images, target, 2.0, reduction="none", dim=(1, 2, 3))
    return psnr.clamp(max=MAX_PSNR)
