"""What Qwen2.5-VL and Qwen3-VL share: patches of any picture, positions of three rows.

Pixels are cut in `patches.py`. Here: positions (m-RoPE) and the features of images.
Shapes: B samples; S prefix positions, padded on the left; D hidden size.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from qk_lightning.parts.vlms import checkpoint_files
from qk_lightning.parts.vlms.base import VLMPart
from qk_lightning.parts.vlms.inputs import Pictures, VLMInputs
from qk_lightning.parts.vlms.patches import PatchSettings, patchify, tokens_of
from qk_lightning.parts.vlms.prompts import ChatLayout


class QwenPart(VLMPart):
    """The Qwen-VL way; besides a VLM's options it has `min_pixels` and `max_pixels`."""

    layout = ChatLayout(
        user="<|im_start|>user\n",
        assistant="<|im_end|>\n<|im_start|>assistant\n",
        end="<|im_end|>",
        image="<|image_pad|>",
        image_start="<|vision_start|>",
        image_end="<|vision_end|>",
    )

    @cached_property
    def patch_settings(self) -> PatchSettings:
        """What preprocessor_config.json and the options say about images."""
        limits = {"min_pixels": self.hparams.min_pixels, "max_pixels": self.hparams.max_pixels}
        return PatchSettings.read(checkpoint_files.read_preprocessor(self.source), **limits)

    def pictures(self, images: Tensor) -> Pictures:
        """Cut images into rows of patches; an image keeps its shape and about its size.

        Args:
            images: [B, N, 3, H, W] in [-1, 1].

        Returns:
            Rows of patches, with the grid of each image.
        """
        pixels, grid = patchify(images.flatten(0, 1), self.patch_settings)
        grids = torch.tensor([grid] * images.shape[:2].numel())
        return Pictures(pixels, tokens_of(grid, self.patch_settings), grid_thw=grids)

    def positions(self, ids: Tensor, mask: Tensor, pictures: Pictures | None) -> Tensor:
        """Give each token its (time, row, column), for rows that begin with the same images.

        A row's positions depend on what stands before, so a shorter row has the first positions
        of the longest one: `get_rope_index`, a loop over rows and tokens, runs on one row only.

        Args:
            ids: [B, S], padded on the left.
            mask: [B, S], 0 on the padding.
            pictures: The images, or None.

        Returns:
            [3, B, S] int64, 0 on the padding.
        """
        row = int(mask.sum(dim=1).argmax())
        longest = ids[row][mask[row].bool()][None]
        is_image = (longest == self.model.config.image_token_id).int()
        grids = None if pictures is None else pictures.grid_thw
        positions, _ = self.model.model.get_rope_index(longest, is_image, image_grid_thw=grids)
        order = (mask.cumsum(dim=1) - 1).clamp(min=0)
        return positions[:, 0][:, order]

    def image_features(self, inputs: VLMInputs) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Run the vision tower.

        Args:
            inputs: With rows of patches and grids.

        Returns:
            [image tokens, D], and the deepstack features of a VLM that has them (Qwen3-VL):
            added to the image tokens' states after its first layers.
        """
        output = self.model.model.get_image_features(
            inputs.pixel_values, inputs.image_grid_thw, return_dict=True
        )
        later = getattr(output, "deepstack_features", None) or ()
        return torch.cat(tuple(output.pooler_output)), tuple(torch.cat(tuple(f)) for f in later)
