"""Low-level pictures as channels of a head's input: slots, and an input layer widened for them.

Not here: the architectures. B batch, C latent channels, h x w latent cells, N input pictures,
K slots: slot 1 is the source's, slots 2 to K are the references' in the order given. A slot that
no picture takes holds zeros, the mean of normalised latents.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from qk_lightning.config.errors import ConfigError
from qk_lightning.parts.heads.base import DiffusionHead, check_roles
from qk_lightning.parts.heads.options import channel_problem


class ChannelHead(DiffusionHead):
    """A head whose input layer reads C * (1 + K) channels: the noisy latents, then the slots.

    Weights of fewer slots load too (a pretrained folder has none): those of the new channels are
    zero then, so the head starts as the loaded one whatever the pictures show.

    Attributes:
        input_layer: Name of the input convolution inside `self.model`.
    """

    image_entry: ClassVar = "channels"
    input_layer: ClassVar[str]
    latent_channels: int

    def read_widened(
        self,
        model_class: Any,
        path: str | None,
        given: Mapping[str, Any],
        fixed: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Find the diffusers config, as `read_architecture`, with room for the slots.

        Sets `latent_channels` and `num_image_slots`; a folder with slots needs no option.

        Args:
            model_class: The diffusers class.
            path: As in the constructor; None builds from the arguments.
            given: Constructor argument to its value.
            fixed: Entries of diffusers' config that are not options here.

        Returns:
            A diffusers config; in_channels = C * (1 + K).

        Raises:
            ValueError: The folder is for other latents, or has more slots than asked for.
        """
        channels, slots = self.hparams["latent_channels"], self.hparams["num_image_slots"]
        fixed = {**fixed, "in_channels": channels, "out_channels": channels}
        config = self.read_architecture(
            model_class, path, given, fixed, subfolder=self.hparams.get("subfolder")
        )
        found, out = config["in_channels"], config.get("out_channels") or config["in_channels"]
        if out != channels or found % channels:
            holds = f"reads {found} channels and returns {out}"
            wanted = f"a model that reads a multiple of {channels} and returns {channels}"
            raise ConfigError(channel_problem(self.hparams, holds, wanted))
        has = found // channels - 1
        if slots and slots < has:
            raise ValueError(f"num_image_slots: {slots}, but {path} has {has}; leave it out")
        self.latent_channels, self.num_image_slots = channels, max(slots, has)
        return {**config, "in_channels": self.num_input_channels}

    def image_problem(self, roles: tuple[str, ...]) -> str | None:
        """Say why pictures of these roles do not fit the slots.

        Args:
            roles: `source` or `reference` for each picture.

        Returns:
            What is wrong and what would mend it, or None.
        """
        return slot_problem(roles, self.num_image_slots or 0)

    def check_images(
        self, noisy_latents: Tensor, image_latents: Tensor | None, roles: tuple[str, ...]
    ) -> None:
        """See that the input pictures fit the slots and the target.

        Args:
            noisy_latents: [B, C, h, w].
            image_latents: [B, N, C, h, w], or None.
            roles: One a picture.

        Raises:
            ValueError: Pictures that do not fit: their number, roles or size.
        """
        check_roles(image_latents, roles)
        if problem := self.image_problem(roles):
            raise ValueError(problem)
        if image_latents is not None and image_latents.shape[-2:] != noisy_latents.shape[-2:]:
            raise ValueError(
                f"image_latents: {tuple(image_latents.shape[-2:])} cells for a target of "
                f"{tuple(noisy_latents.shape[-2:])}; pictures that enter as channels need the "
                "target's size: resize them, or take a head that reads them as tokens (flux)."
            )

    def join(
        self, noisy_latents: Tensor, image_latents: Tensor | None, roles: tuple[str, ...]
    ) -> Tensor:
        """Put the noisy latents and the pictures side by side, in the weights' order.

        Args:
            noisy_latents: [B, C, h, w].
            image_latents: [B, N, C, h, w] in the same dtype, or None; `check_images` let them in.
            roles: One a picture.

        Returns:
            [B, C * (1 + K), h, w].
        """
        pieces = [noisy_latents]
        pieces += [torch.zeros_like(noisy_latents)] * (self.num_image_slots or 0)
        for place, slot in enumerate(slots_of(roles)):
            assert image_latents is not None
            pieces[slot] = image_latents[:, place]
        return torch.cat(pieces, dim=1)

    @property
    def num_input_channels(self) -> int:
        """Channels that the input layer reads: C * (1 + K)."""
        return self.latent_channels * (1 + (self.num_image_slots or 0))

    def fit_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Widen the input layer of weights with fewer slots, by zeros.

        Args:
            state: Name to tensor, as a file has them.

        Returns:
            The state for this head's slots.
        """
        name = f"{self.input_layer}.weight"
        if name not in state:
            return state
        missing = self.num_input_channels - state[name].shape[1]
        if missing <= 0 or missing % self.latent_channels:
            return state  # right as it is, or wrong: what loads it says so
        return {**state, name: functional.pad(state[name], (0, 0, 0, 0, 0, missing))}

    def takes_over(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Tell what shape a weight has once `fit_state` has seen it.

        Args:
            name: The weight's name in this part.
            shape: Its shape in another head.

        Returns:
            Its shape here.
        """
        if name != f"model.{self.input_layer}.weight" or len(shape) != 4:
            return shape
        own = self.num_input_channels
        widens = shape[1] <= own and shape[1] % self.latent_channels == 0
        return (shape[0], own, *shape[2:]) if widens else shape


def slots_of(roles: tuple[str, ...]) -> list[int]:
    """Give each picture its slot: 1 to the source, 2, 3, ... to the references in their order.

    Args:
        roles: `source` or `reference` for each picture.

    Returns:
        One slot a picture, counted from 1.
    """
    references = 0
    slots = []
    for role in roles:
        references += role == "reference"
        slots.append(1 if role == "source" else 1 + references)
    return slots


def slots_needed(roles: tuple[str, ...]) -> int:
    """Count the slots that pictures of these roles need, the source's included.

    Args:
        roles: `source` or `reference` for each picture.

    Returns:
        K at least.
    """
    return max(slots_of(roles), default=0)


def slot_problem(roles: tuple[str, ...], num_slots: int) -> str | None:
    """Say why pictures of these roles do not fit.

    Args:
        roles: `source` or `reference` for each picture.
        num_slots: K.

    Returns:
        What is wrong and what would mend it, or None.
    """
    if unknown := sorted(set(roles) - {"source", "reference"}):
        return f"roles: {unknown}, expected source or reference."
    if roles.count("source") > 1:
        return f"roles: {roles} has more than one source, and one slot is for it."
    needed = slots_needed(roles)
    if needed > num_slots:
        return (
            f"roles: {roles} need {needed} slots (the first is the source's), the head has "
            f"{num_slots}; set head.num_image_slots={needed}."
        )
    return None
