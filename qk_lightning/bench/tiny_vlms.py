"""Random checkpoints of every VLM, saved as the real ones are: a few thousand numbers each.

`MAKERS` and the first lines of `make_tiny_vlm` are the one place where the families are listed by
hand: how to make a checkpoint of one is known to nobody else.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

TEXTS = [f"a portrait with {c} hair and a {c} hat" for c in ("red", "blue", "green")]
WIDTH = 32
NUM_LAYERS = 3
TILE = 16  # pixels of a tile's side, where a VLM has tiles: 16 patches
EXTRA_TOKENS = ["<image>", "<img>", "</img>", "<IMG_CONTEXT>"]
CHAT = (  # as Qwen2.5 has it: a system turn that the checkpoint brings along
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tiny_vlm(name: str, folder: Path) -> Path:
    """Write a random checkpoint for the part of a name, with three layers of width 32.

    Args:
        name: as in YAML; one of `KNOWN`.
        folder: created if missing.

    Returns:
        The folder.
    """
    from qk_lightning.parts.vlms.checkpoint import no_progress_bar
    from qk_lightning.parts.vlms.small import make_small_vlm, train_tokenizer

    if name == "qwen2_5_vl":
        sizes = {"hidden_size": WIDTH, "num_layers": NUM_LAYERS, "vocab_size": 300}
        return make_small_vlm(folder, TEXTS, vision_hidden=32, vision_layers=2, **sizes)
    tokenizer = train_tokenizer(TEXTS, 300)
    tokenizer.add_special_tokens({"additional_special_tokens": EXTRA_TOKENS})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, processor = MAKERS[name](tokenizer)
    with no_progress_bar():
        model.save_pretrained(folder)
    if processor is None:
        tokenizer.chat_template = CHAT
    else:
        processor.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def text_sizes(tokenizer: Any) -> dict[str, Any]:
    """Give the language model's sizes.

    Args:
        tokenizer: for the vocabulary's size and its special tokens.

    Returns:
        Entries of a text configuration.
    """
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 48,
        "num_hidden_layers": NUM_LAYERS,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 512,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
    }


def id_of(tokenizer: Any, token: str) -> int:
    """Look a token up.

    Args:
        tokenizer: the tokenizer.
        token: a special token.

    Returns:
        Its id.
    """
    return tokenizer.convert_tokens_to_ids(token)


def qwen3_vl(tokenizer: Any) -> tuple[Any, Any]:
    """Make Qwen3-VL with deepstack from two layers of its vision tower.

    Args:
        tokenizer: the tokenizer that it is made for.

    Returns:
        The model, and its image processor or None.
    """
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]}
    vision = {"depth": 3, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2}
    vision |= {"patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2}
    vision |= {"out_hidden_size": WIDTH, "num_position_embeddings": 16}
    config = Qwen3VLConfig(
        text_config=text_sizes(tokenizer) | {"head_dim": 16, "rope_parameters": rope},
        vision_config=vision | {"deepstack_visual_indexes": [0, 1]},
        image_token_id=id_of(tokenizer, "<|image_pad|>"),
        video_token_id=id_of(tokenizer, "<|video_pad|>"),
        vision_start_token_id=id_of(tokenizer, "<|vision_start|>"),
        vision_end_token_id=id_of(tokenizer, "<|vision_end|>"),
        tie_word_embeddings=True,
    )
    half = [0.5, 0.5, 0.5]
    size = {"shortest_edge": 16 * 16, "longest_edge": 32 * 32}
    processor = Qwen2VLImageProcessorPil(
        patch_size=4, merge_size=2, size=size, image_mean=half, image_std=half
    )
    return Qwen3VLForConditionalGeneration(config), processor


def llava_onevision(tokenizer: Any) -> tuple[Any, Any]:
    """Make LLaVA-OneVision with tiles of 16 pixels, up to 2 x 2 of them.

    Args:
        tokenizer: the tokenizer that it is made for.

    Returns:
        The model, and its image processor or None.
    """
    from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration
    from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
        LlavaOnevisionImageProcessorPil,
    )

    vision = {"model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 48}
    vision |= {"num_hidden_layers": 2, "num_attention_heads": 2, "image_size": TILE}
    pinpoints = [[TILE * h, TILE * w] for h in (1, 2) for w in (1, 2)]
    config = LlavaOnevisionConfig(
        text_config=text_sizes(tokenizer) | {"model_type": "qwen2"},
        vision_config=vision | {"patch_size": 4, "vision_use_head": False},
        image_token_index=id_of(tokenizer, "<image>"),
        video_token_index=id_of(tokenizer, "<|video_pad|>"),
        image_grid_pinpoints=pinpoints,
    )
    half = [0.5, 0.5, 0.5]
    processor = LlavaOnevisionImageProcessorPil(
        size={"height": TILE, "width": TILE},
        image_grid_pinpoints=pinpoints,
        image_mean=half,
        image_std=half,
    )
    return LlavaOnevisionForConditionalGeneration(config), processor


def internvl(tokenizer: Any) -> tuple[Any, Any]:
    """Make InternVL with tiles of 16 pixels, up to 4 of them.

    Args:
        tokenizer: the tokenizer that it is made for.

    Returns:
        The model, and its image processor or None.
    """
    from transformers import InternVLConfig, InternVLForConditionalGeneration
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    vision |= {"num_attention_heads": 2, "image_size": [TILE, TILE], "patch_size": [4, 4]}
    config = InternVLConfig(
        text_config=text_sizes(tokenizer) | {"model_type": "qwen2"},
        vision_config=vision,
        image_token_id=id_of(tokenizer, "<IMG_CONTEXT>"),
        image_seq_length=4,
        tie_word_embeddings=False,
    )
    processor = GotOcr2ImageProcessorPil(
        size={"height": TILE, "width": TILE}, crop_to_patches=True, max_patches=4
    )
    return InternVLForConditionalGeneration(config), processor


def causal_lm(tokenizer: Any) -> tuple[Any, Any]:
    """Make a Llama, as SmolLM2 is one.

    Args:
        tokenizer: the tokenizer that it is made for.

    Returns:
        The model, and its image processor or None.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**text_sizes(tokenizer), tie_word_embeddings=True)), None


MAKERS = {
    "qwen3_vl": qwen3_vl,
    "llava_onevision": llava_onevision,
    "internvl": internvl,
    "causal_lm": causal_lm,
}
KNOWN = ("qwen2_5_vl", *MAKERS)
