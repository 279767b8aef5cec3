"""Query-Kontext, and MetaQuery as other settings of it.

The VLM reads prompt and images, queries read out kontext, a connector carries both to the
diffusion head, which is trained as the objective says. Which conditions are dropped in training
stands in dropout.py, what guidance is made of in guidance.py.
B batch, N images, T prompt tokens, K queries, L = T + K condition tokens, D and Dc widths,
C x h x w latents.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Literal

import torch
from omegaconf import DictConfig
from torch import Tensor

from qk_lightning.assembly.weights import Entry
from qk_lightning.config.errors import ConfigError
from qk_lightning.data.randomness import normal, stratified, uniform
from qk_lightning.data.sample import Batch
from qk_lightning.parts.connectors.masks import condition_mask
from qk_lightning.parts.vlms.inputs import VLMOutput
from qk_lightning.systems.base import System
from qk_lightning.systems.dropout import (
    Shares,
    drop_conditions,
    images_dropped,
    share_problems,
)
from qk_lightning.systems.guidance import guidance_terms
from qk_lightning.systems.sampling import Condition, denoise, num_cells

# Seen through the VLM alone, whatever `low_level` says: their low-level tokens would be copied.
VLM_ALONE = ("reconstruction", "transformation")


class QueryKontext(System):
    """VLM, queries, connector and diffusion head.

    Args:
        config: the resolved configuration.
        entries: where the parts' weights come from.
        root: the folder that holds the run folders.
        context: what the connector carries: the prompt's states, the kontext, or both.
        low_level: give the head the latents of source and reference images (stage 3).
        prompt_dropout: share of samples trained with the empty prompt.
        image_dropout: share of groups trained without their input images, in VLM and head; with
            another policy than independent, share of samples whose images are black.
        joint_dropout: share of samples that lose both at once; only where a policy draws once.
        dropout: policy by task. independent: prompts by sample and images by group, in all tasks;
            metaquery: prompts of text-to-image, images of reconstruction, transformation and
            editing, one draw for either or both where images are references; instruction: one
            draw in every task with images.

    Raises:
        ConfigError: a share is not in [0, 1], or the policy has no use for it.

    Source: Query-Kontext, arXiv 2509.26641, sec. 3; MetaQuery, arXiv 2504.06256, sec. 3.
    """

    families = ("vlm", "autoencoder", "head", "queries", "connector", "objective")
    several_ranks = True
    wired = ("config", "entries", "root")

    def __init__(
        self,
        *,
        config: DictConfig,
        entries: list[Entry],
        root: Path | None = None,
        context: Literal["text", "queries", "both"] = "both",
        low_level: bool = False,
        prompt_dropout: float = 0.1,
        image_dropout: float = 0.0,
        joint_dropout: float = 0.0,
        dropout: Literal["independent", "metaquery", "instruction"] = "independent",
    ) -> None:
        super().__init__(config, entries, root)
        self.shares = Shares(prompt_dropout, image_dropout, joint_dropout)
        if problems := share_problems(dropout, self.shares):
            raise ConfigError(problems)
        self.context = context
        self.low_level = low_level
        self.dropout = dropout

    @property
    def wants_latents(self) -> bool:
        """Latents are cached while the autoencoder does not learn."""
        return "autoencoder" not in self.config.trainable and self.config.data.cache_latents

    def on_built(self) -> None:
        """Queries do not learn where nothing reads them."""
        if self.context == "text":
            self.queries.freeze_tokens()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the objective's loss of one micro-batch."""
        batch = self.drop_conditions(batch)
        latents = self.target_latents(batch)
        noise = normal(self.seed, "noise", batch.index, latents.shape[1:]).to(latents)
        draws = uniform(self.seed, "sigma", batch.index)
        sigma = self.objective.draw_sigma(draws, num_cells(latents)).to(latents)
        losses = self.velocity_loss(batch, latents, noise, sigma)
        return (self.objective.weight(sigma) * losses).mean()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the loss on fixed noise and noise levels: the same for all members and seeds.

        It is not weighted, so that members with other weights compare.
        """
        latents = self.target_latents(batch)
        noise = normal(0, "val/noise", batch.index, latents.shape[1:]).to(latents)
        levels = stratified(int(batch.index.max()) + 1).to(latents)[batch.index]
        sigma = self.objective.draw_sigma(levels, num_cells(latents)).to(latents)
        loss = self.velocity_loss(batch, latents, noise, sigma).mean()
        for name in ("val/loss", f"val/loss/{batch.task}"):
            self.log(name, loss, batch_size=batch.batch_size, on_step=False, on_epoch=True)

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Draw pictures for a batch, with noise that belongs to the sample.

        Returns:
            [B, 3, H, W] in [-1, 1].
        """
        latents = self.sample(batch, normal(0, "val/draw", batch.index, self.latent_shape(batch)))
        return self.autoencoder.decode(latents).clamp(-1, 1)

    def velocity_loss(self, batch: Batch, latents: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """Return the loss of each sample, not weighted.

        Args:
            batch: prompts and images.
            latents: [B, C, h, w] of the target.
            noise: [B, C, h, w].
            sigma: [B] in [0, 1].

        Returns:
            [B].
        """
        condition = self.condition(batch)
        noisy_latents = self.objective.mix(latents, noise, sigma)
        velocity = self.velocity(noisy_latents, sigma, condition)
        return self.objective.loss(velocity, latents, noise, sigma=sigma)

    def velocity(self, noisy_latents: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """Ask the head for what the objective has as its target.

        Args:
            noisy_latents: [B, C, h, w].
            sigma: [B].
            condition: what it is conditioned on.

        Returns:
            [B, C, h, w]: the velocity of flow matching, or the target of another objective.
        """
        return self.head(
            noisy_latents,
            sigma,
            condition.states,
            condition.mask,
            condition.image_latents,
            condition.roles,
        )

    def condition(self, batch: Batch) -> Condition:
        """Read prompt and images with the VLM and carry what it says to the head.

        Args:
            batch: prompts, and images with roles.

        Returns:
            The condition, in the order [text, kontext].
        """
        return self.carry(self.read(batch), batch)

    def read(self, batch: Batch) -> VLMOutput:
        """Read prompt and images with the VLM.

        Args:
            batch: prompts, and images with roles.

        Returns:
            What the connector will be given of it: text of no token where the context is the
            queries alone, kontext of no token where it is the text alone.
        """
        inputs = self.vlm.prepare(batch.prompts, batch.images)
        context = self.context if self.queries.num_queries else "text"
        # What noisy queries draw: new numbers each step, the same ones whenever it is drawn.
        seed, purpose = (self.seed, "queries") if self.training else (0, "val/queries")
        noise = partial(normal, seed, purpose, batch.index)
        queries = None if context == "text" else self.queries(batch.batch_size, noise)
        read = self.queries.combine(self.vlm(inputs, queries, layers=self.queries.layers))
        if context == "queries":
            read = read._replace(
                text_states=read.text_states[:, :0], text_mask=read.text_mask[:, :0]
            )
        return read._replace(kontext=read.kontext[:, :0]) if context == "text" else read

    def carry(self, read: VLMOutput, batch: Batch) -> Condition:
        """Carry what was read to the head.

        Args:
            read: text [B, T, D] with its mask and kontext [B, K, D]; T or K may be 0.
            batch: the images, whose low-level tokens stand beside it.

        Returns:
            The condition, in the order [text, kontext].
        """
        whole = read.kontext.new_ones(read.kontext.shape[:2], dtype=torch.bool)
        mask = torch.cat([read.text_mask, whole], 1)
        carried = self.connector(torch.cat([read.text_states, read.kontext], 1), mask)
        mask = condition_mask(self.connector, mask)
        has_images = self.low_level and batch.images is not None and batch.task not in VLM_ALONE
        latents = self.image_latents(batch) if has_images else None
        return Condition(carried, mask, latents, batch.roles if has_images else ())

    def drop_conditions(self, batch: Batch) -> Batch:
        """Take prompts or images from some samples, for guidance, as the policy says.

        Args:
            batch: a training micro-batch.

        Returns:
            The batch to train on.
        """
        config = self.config
        return drop_conditions(
            batch,
            self.dropout,
            self.shares,
            seed=self.seed,
            group_size=config.trainer.global_batch_size // config.data.groups_per_step,
            autoencoder=self.autoencoder,
        )

    def latent_shape(self, batch: Batch) -> tuple[int, int, int]:
        """Return (C, h, w) of a batch's target."""
        height, width = batch.target.shape[-2:]
        stride = self.autoencoder.stride
        return self.autoencoder.latent_channels, height // stride, width // stride

    def target_latents(self, batch: Batch) -> Tensor:
        """Return the target's latents [B, C, h, w], cached or encoded now."""
        if batch.target_latents is not None:
            return batch.target_latents
        with torch.no_grad():
            return self.autoencoder.encode(batch.target)

    def image_latents(self, batch: Batch) -> Tensor:
        """Return the input images' latents [B, N, C, h, w], cached or encoded now."""
        if batch.image_latents is not None:
            return batch.image_latents
        assert batch.images is not None
        with torch.no_grad():
            flat = self.autoencoder.encode(batch.images.flatten(0, 1))
        return flat.unflatten(0, batch.images.shape[:2])

    @torch.no_grad()
    def sample(self, batch: Batch, noise: Tensor, read: VLMOutput | None = None) -> Tensor:
        """Draw latents with the objective's scheduler.

        The head's predictions are summed with the weights of `guidance_terms`.

        Args:
            batch: prompts, and images with roles.
            noise: [B, C, h, w], standard normal.
            read: what the VLM has read of the batch; None = it reads now.

        Returns:
            Latents [B, C, h, w].
        """
        options = self.config.sampling
        scales = options.guidance_scale, options.image_guidance_scale
        return denoise(self, self._guidance_terms(batch, *scales, read), noise)

    def _guidance_terms(
        self, batch: Batch, text_scale: float, image_scale: float, read: VLMOutput | None = None
    ) -> list[tuple[float, Condition]]:
        guidance = self.config.sampling.get("guidance") or "text_and_image"  # an older run has none
        no_images = partial(images_dropped, policy=self.dropout, autoencoder=self.autoencoder)
        terms = guidance_terms(guidance, batch, text_scale, image_scale, no_images)
        return [(weight, self.carry(read, item) if read and item is batch else self.condition(item))
                for weight, item in terms]  # fmt: skip
