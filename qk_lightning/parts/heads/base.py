"""What all heads share: the way in and out, how pictures enter, what is never read.

Not here: the architectures (a file each), tokens (tokens.py), channels (channels.py), padding of
the condition (condition.py), options that cannot be (options.py). B batch, C latent channels,
h x w latent cells, L condition tokens of width Dc, N input pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, Self

from torch import Tensor, nn

from qk_lightning.parts.base import weights_dtype
from qk_lightning.parts.diffusers_part import DiffusersPart
from qk_lightning.parts.heads.condition import masked_condition


class DiffusionHead(DiffusersPart):
    """A denoiser: noisy latents, noise level, condition and input pictures in, velocity out.

    A head is called through `forward`, here; a subclass writes `predict`.

    Attributes:
        image_entry: Low-level pictures enter as `tokens` of the sequence (any number of them), or
            as `channels` of the input (`num_image_slots` at most, of the target's size).
        num_image_slots: Pictures that fit; None without a limit.
        masks_padding: Whether `condition_mask` is honoured in attention.
        condition_size: Width of the condition, Dc.
        cell_multiple: The latents' height and width must be multiples of it.
        max_cells: The longest side of the latents that fits; None without a limit.
    """

    image_entry: ClassVar[Literal["tokens", "channels"]] = "tokens"
    masks_padding: ClassVar[bool] = True
    num_image_slots: int | None = None
    condition_size: int
    cell_multiple: int = 1
    max_cells: int | None = None

    def forward(
        self,
        noisy_latents: Tensor,
        sigma: Tensor,
        condition: Tensor,
        condition_mask: Tensor,
        image_latents: Tensor | None = None,
        roles: tuple[str, ...] = (),
    ) -> Tensor:
        """Predict the velocity; it is computed in the weights' dtype, whatever the inputs'.

        A head that was pretrained under `ddpm` predicts what it was trained on, noise or v.

        Args:
            noisy_latents: [B, C, h, w].
            sigma: [B] in [0, 1].
            condition: [B, L, Dc]; L may be 0.
            condition_mask: [B, L] bool, False where a token is padding.
            image_latents: [B, N, C, h', w'] of the input pictures, or None; those that enter as
                channels have the target's size.
            roles: `source` or `reference` for each of the N pictures.

        Returns:
            velocity [B, C, h, w] in the dtype of `noisy_latents`.

        Raises:
            ValueError: A size that the head cannot cut into tokens; pictures that do not fit it:
                their number, roles or size.
        """
        self.check_size(noisy_latents, "noisy_latents")
        self.check_images(noisy_latents, image_latents, roles)
        dtype = weights_dtype(self.model)
        condition, condition_mask = masked_condition(condition, condition_mask, dtype)
        if image_latents is not None:  # pictures are never more precise than the target
            image_latents = image_latents.to(noisy_latents).to(dtype)
        noisy = noisy_latents.to(dtype)
        velocity = self.predict(
            noisy, sigma, condition, condition_mask, image_latents, tuple(roles)
        )
        return velocity.to(noisy_latents.dtype)

    def predict(
        self,
        noisy_latents: Tensor,
        sigma: Tensor,
        condition: Tensor,
        condition_mask: Tensor,
        image_latents: Tensor | None,
        roles: tuple[str, ...],
    ) -> Tensor:
        """Call the model: the part of `forward` that is a head's own, called by nobody else.

        Sizes and the number of roles are right by now; all but sigma and the mask are in the
        weights' dtype. The condition has a token or more, and zeros in place of padding.

        Args:
            noisy_latents: As in `forward`.
            sigma: As in `forward`, in any dtype.
            condition: As in `forward`; L is 1 or more.
            condition_mask: As in `forward`.
            image_latents: As in `forward`.
            roles: As in `forward`.

        Returns:
            velocity [B, C, h, w].
        """
        raise NotImplementedError

    def unread(self) -> list[nn.Module]:
        """Modules whose output never reaches the velocity.

        Returns:
            Modules inside this part; they stay frozen, since no gradient can come to them.
        """
        return []

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Open or freeze all parameters; those of `unread` stay frozen.

        Args:
            requires_grad: Whether they learn.

        Returns:
            This part.
        """
        super().requires_grad_(requires_grad)
        for module in self.unread():
            module.requires_grad_(False)
        return self

    def image_problem(self, roles: tuple[str, ...]) -> str | None:
        """Say why pictures of these roles cannot enter; asked before anything trains.

        Args:
            roles: `source` or `reference` for each picture.

        Returns:
            What is wrong and what would mend it, or None.
        """
        return None

    def check_images(
        self, noisy_latents: Tensor, image_latents: Tensor | None, roles: tuple[str, ...]
    ) -> None:
        """See that the input pictures fit this head and the target.

        Args:
            noisy_latents: [B, C, h, w].
            image_latents: [B, N, C, h', w'], or None.
            roles: One a picture.

        Raises:
            ValueError: A size that the head cannot cut into tokens, or not a role for each.
        """
        if image_latents is not None:
            self.check_size(image_latents, "image_latents")
        check_roles(image_latents, roles)

    def check_size(self, latents: Tensor, name: str) -> None:
        """See that latents have a size that the head can cut into tokens.

        Args:
            latents: [..., h, w].
            name: What they are called in the error.

        Raises:
            ValueError: A side is no multiple of `cell_multiple`, or longer than `max_cells`.
        """
        height, width = latents.shape[-2:]
        multiple = self.cell_multiple
        if height % multiple or width % multiple:
            raise ValueError(
                f"{name}: {height} x {width} latent cells, expected multiples of {multiple}, the "
                f"side of {type(self).__name__}'s patch; choose another picture size."
            )
        if self.max_cells is not None and max(height, width) > self.max_cells:
            raise ValueError(
                f"{name}: {height} x {width} latent cells, expected {self.max_cells} or fewer a "
                "side, for which the head has positions; choose smaller pictures."
            )


def check_roles(image_latents: Tensor | None, roles: Sequence[str]) -> None:
    """See that every picture has a role.

    Args:
        image_latents: [B, N, C, h', w'], or None.
        roles: One a picture.

    Raises:
        ValueError: Their numbers differ.
    """
    num_images = 0 if image_latents is None else image_latents.shape[1]
    if num_images != len(roles):
        raise ValueError(f"roles: {roles} for {num_images} input pictures; give one for each.")
