"""Qwen2.5-VL as a part: the VLM of Query-Kontext and MetaQuery, and of the laptop worlds.

What it shares with Qwen3-VL stands in `qwen_vl.py`, with every VLM in `base.py`.
"""

from __future__ import annotations

from typing import Literal

from qk_lightning.parts.vlms.qwen_vl import QwenPart


class Qwen25VL(QwenPart):
    """A Qwen2.5-VL checkpoint: the small built-in ones, your own, or a hub id.

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
    """

    version = 1
    paths = ("path",)
    model_type = "qwen2_5_vl"

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
