"""LLaVA-OneVision as a part: one image in tiles, several images whole.

The cutting stands in `tiles.py`, what it shares with every VLM in `base.py`.
Shapes: B samples of N images; D hidden size.
"""

from __future__ import annotations

from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from qk_lightning.parts.vlms import checkpoint_files
from qk_lightning.parts.vlms.base import VLMPart
from qk_lightning.parts.vlms.inputs import Pictures, VLMInputs
from qk_lightning.parts.vlms.prompts import ChatLayout
from qk_lightning.parts.vlms.tiles import TileSettings, any_resolution, padded_squares


class LlavaOnevision(VLMPart):
    """A LLaVA-OneVision checkpoint in transformers' layout (`llava-hf/llava-onevision-...`).

    A single image is seen whole and in tiles of the resolution that suits it best (anyres), up to
    about 7,400 tokens; of several images each is padded to a square and seen whole, 729 tokens
    and one more for the real model. Positions are places in the row.

    Args:
        path: Folder as transformers writes it (config.json, safetensors, tokenizer,
            preprocessor_config.json), `builtin:<name>`, or a hub id.
        max_prompt_tokens: Longer prompts are cut, with a warning.
        tiles: Cut a single image into tiles as the model was trained; False sees it whole only,
            which is cheaper by far.
        attention: Implementation in transformers; flash_attention_2 needs its package and a GPU.
        gradient_checkpointing: Recompute the layers in the backward pass; of use only while the
            VLM itself trains.
        dtype: Of the weights in memory.

    Source: transformers, models/llava_onevision.
    """

    version = 1
    paths = ("path",)
    model_type = "llava_onevision"
    layout = ChatLayout(
        user="<|im_start|>user ",
        assistant="<|im_end|><|im_start|>assistant\n",
        end="<|im_end|>",
        image="<image>",
        before_prompt="\n",
    )

    def __init__(
        self,
        *,
        path: str,
        max_prompt_tokens: int = 256,
        tiles: bool = True,
        attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa",
        gradient_checkpointing: bool = False,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.open_checkpoint()

    @cached_property
    def tile_settings(self) -> TileSettings:
        """What preprocessor_config.json says about images."""
        return TileSettings.read(checkpoint_files.read_preprocessor(self.source))

    def pictures(self, images: Tensor) -> Pictures:
        """Cut a single image into tiles, or pad several to squares.

        Args:
            images: [B, N, 3, H, W] in [-1, 1].

        Returns:
            Tiles [B * N, tiles, 3, side, side].
        """
        cut = any_resolution if self._has_tiles(images.shape[1]) else padded_squares
        size = (images.shape[-2], images.shape[-1])
        tiles = cut(images.flatten(0, 1), self.tile_settings)
        return Pictures(tiles, self._num_tokens(tiles.shape[1], size), image_size=size)

    def image_features(self, inputs: VLMInputs) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Run the vision tower, and pack the tiles' features with the learned line ends.

        Args:
            inputs: With tiles.

        Returns:
            [image tokens, D], and nothing for later layers.
        """
        count = len(inputs.pixel_values)
        # The model cuts an image into tiles where a prompt has one, so a 2 stands for 'whole'.
        per_prompt = 1 if inputs.pixel_values.shape[1] > 1 else 2
        output = self.model.model.get_image_features(
            inputs.pixel_values,
            [inputs.image_size] * count,
            batch_num_images=[per_prompt] * count,
            return_dict=True,
        )
        return torch.cat(tuple(output.pooler_output)), ()

    def _has_tiles(self, num_images: int) -> bool:
        return self.hparams.tiles and num_images == 1

    def _num_tokens(self, num_tiles: int, size: tuple[int, int]) -> int:
        """Let the model pack features of width 1, to count what it makes of an image."""
        vision = self.model.config.vision_config
        blank = torch.zeros(num_tiles, (vision.image_size // vision.patch_size) ** 2, 1)
        packed, _ = self.model.model.pack_image_features(
            [blank],
            [size],
            image_newline=torch.zeros(1),
            vision_aspect_ratio=self.model.config.vision_aspect_ratio,
        )
        return len(packed[0])
