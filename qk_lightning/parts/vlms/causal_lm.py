"""Any causal language model as a part: Qwen2.5, SmolLM2, Llama and their like, without eyes.

What makes prompts into a chat is the tokenizer's own chat template; what it shares with every VLM
stands in `base.py`.
"""

from __future__ import annotations

from functools import cached_property
from typing import Literal

from qk_lightning.parts.vlms.base import VLMPart
from qk_lightning.parts.vlms.prompts import ChatLayout

_PROMPT = "HERE THE PROMPT"  # where the template puts it; no special token, no space at its ends


class CausalLM(VLMPart):
    r"""A checkpoint of transformers' AutoModelForCausalLM that reads text alone.

    A prompt stands in the tokenizer's chat template, with the system turn that it brings along; a
    tokenizer without one gives `<start of text> prompt \\n`. Positions are places in the row. A
    configuration with tasks that show images is refused. Logits are those of the output layer: a
    model that caps or scales them (Gemma 2, Cohere) trains its answers on plain ones.

    Args:
        path: Folder as transformers writes it (config.json, safetensors, tokenizer),
            `builtin:<name>`, or a hub id; `python -m qk_lightning.parts.vlms.from_gguf` makes one
            of a GGUF file.
        max_prompt_tokens: Longer prompts are cut, with a warning.
        attention: Implementation in transformers; flash_attention_2 needs its package and a GPU.
        gradient_checkpointing: Recompute the layers in the backward pass; of use only while the
            model itself trains.
        dtype: Of the weights in memory.
    """

    version = 1
    paths = ("path",)
    auto_class = "AutoModelForCausalLM"
    reads_images = False

    def __init__(
        self,
        *,
        path: str,
        max_prompt_tokens: int = 256,
        attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa",
        gradient_checkpointing: bool = False,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.open_checkpoint()

    @cached_property
    def layout(self) -> ChatLayout:
        """The tokenizer's chat template around a prompt."""
        tokenizer = self.tokenizer
        end = tokenizer.eos_token
        if tokenizer.chat_template is None:
            return ChatLayout(user=tokenizer.bos_token or end, assistant="\n", end=end)
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": _PROMPT}], tokenize=False, add_generation_prompt=True
        )
        user, found, assistant = text.partition(_PROMPT)
        if not found:
            raise ValueError(
                f"vlm.path: the chat template of {self.source!r} leaves out the user's turn, "
                "expected a prompt in it; bring the checkpoint's own tokenizer."
            )
        return ChatLayout(user=user, assistant=assistant, end=end)
