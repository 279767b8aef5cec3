"""InternVL as a part (version 2.5 and later, in transformers' layout): images in square tiles.

The cutting stands in `tiles.py`, what it shares with every VLM in `base.py`.
Shapes: B samples of N images; D hidden size.
"""

from __future__ import annotations

from functools import cached_property
from typing import Literal

from torch import Tensor

from qk_lightning.parts.vlms import checkpoint_files
from qk_lightning.parts.vlms.base import VLMPart
from qk_lightning.parts.vlms.inputs import Pictures, VLMInputs
from qk_lightning.parts.vlms.prompts import ChatLayout
from qk_lightning.parts.vlms.tiles import TileSettings, square_tiles


class InternVL(VLMPart):
    """An InternVL checkpoint in transformers' layout (`OpenGVLab/InternVL3-...-hf`).

    An image is cut into 1 to 12 square tiles of 448 pixels, in the arrangement nearest to its
    shape, and seen whole besides where there are several; each is 256 tokens in the real model.
    Positions are places in the row.

    Args:
        path: Folder as transformers writes it (config.json, safetensors, tokenizer,
            preprocessor_config.json), `builtin:<name>`, or a hub id.
        max_prompt_tokens: Longer prompts are cut, with a warning.
        max_tiles: Tiles of an image; 1 sees it whole only, which is cheaper by far; None takes
            the checkpoint's.
        attention: Implementation in transformers; flash_attention_2 needs its package and a GPU.
        gradient_checkpointing: Recompute the layers in the backward pass; of use only while the
            VLM itself trains.
        dtype: Of the weights in memory.

    Source: transformers, models/internvl and models/got_ocr2 (its image processor).
    """

    version = 1
    paths = ("path",)
    model_type = "internvl"
    layout = ChatLayout(
        user="<|im_start|>user\n",
        assistant="<|im_end|>\n<|im_start|>assistant\n",
        end="<|im_end|>",
        image="<IMG_CONTEXT>",
        image_start="<img>",
        image_end="</img>\n",
    )

    def __init__(
        self,
        *,
        path: str,
        max_prompt_tokens: int = 256,
        max_tiles: int | None = None,
        attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa",
        gradient_checkpointing: bool = False,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if max_tiles is not None and max_tiles < 1:
            raise ValueError(f"max_tiles: {max_tiles}, expected 1 or more; 1 sees an image whole.")
        self.open_checkpoint()

    @cached_property
    def tile_settings(self) -> TileSettings:
        """What preprocessor_config.json and the options say about images."""
        text = checkpoint_files.read_preprocessor(self.source)
        return TileSettings.read(text, max_tiles=self.hparams.max_tiles)

    def pictures(self, images: Tensor) -> Pictures:
        """Cut images into square tiles.

        Args:
            images: [B, N, 3, H, W] in [-1, 1].

        Returns:
            Tiles [B * N, tiles, 3, side, side].
        """
        tiles = square_tiles(images.flatten(0, 1), self.tile_settings)
        config = self.model.config
        vision = config.vision_config
        sides = zip(vision.image_size, vision.patch_size, strict=True)
        rows, columns = (int(side // patch * config.downsample_ratio) for side, patch in sides)
        return Pictures(tiles, tiles.shape[1] * rows * columns)

    def image_features(self, inputs: VLMInputs) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Run the vision tower on all tiles.

        Args:
            inputs: With tiles.

        Returns:
            [image tokens, D], and nothing for later layers.
        """
        output = self.model.model.get_image_features(
            inputs.pixel_values.flatten(0, 1), return_dict=True
        )
        return output.pooler_output.flatten(0, 1), ()
