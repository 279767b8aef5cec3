"""Qwen3-VL as a part: positions of three rows, and deepstack.

Deepstack: features of some layers of the vision tower are added to the image tokens' states after
the language model's first layers. That happens in prefill, where the image tokens are; reading
runs the queries alone, and none of them is an image token. What it shares with Qwen2.5-VL stands
in `qwen_vl.py`, with every VLM in `base.py`.
"""

from __future__ import annotations

from typing import Literal

from qk_lightning.parts.vlms.qwen_vl import QwenPart


class Qwen3VL(QwenPart):
    """A Qwen3-VL checkpoint (dense): a folder or a hub id.

    Args:
        path: Folder as transformers writes it (config.json, safetensors, tokenizer,
            preprocessor_config.json), `builtin:<name>`, or a hub id.
        max_prompt_tokens: Longer prompts are cut, with a warning.
        min_pixels: Smaller images are enlarged to this area; None takes the checkpoint's.
        max_pixels: Larger images are reduced to this area; None takes the checkpoint's.
        attention: Implementation in transformers; flash_attention_2 needs its package and a GPU.
        gradient_checkpointing: Recompute the layers in the backward pass; of use only while the
            VLM itself trains.
        dtype: Of the weights in memory.

    Source: transformers, models/qwen3_vl; DeepStack, arXiv 2406.04334.
    """

    version = 1
    paths = ("path",)
    model_type = "qwen3_vl"

    def __init__(
        self,
        *,
        path: str,
        max_prompt_tokens: int = 256,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa",
        gradient_checkpointing: bool = False,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.open_checkpoint()
