"""Makes a small Qwen2.5-VL from nothing: a folder with the same files as the real checkpoints.

Here: the tokenizer trained on given texts, the configuration, random weights. Not here: training
it (the `understanding` system) and running it (`qwen2_5_vl.py`, which reads any such folder).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from qk_lightning.parts.vlms.checkpoint import no_progress_bar

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
_WORDS = (  # how Qwen2's tokenizer cuts text before the merges
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_HEAD_DIM = 32
_MARKERS = {  # entries of the configuration that name a token by its id
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}


def make_small_vlm(
    folder: str | Path,
    texts: Iterable[str],
    *,
    hidden_size: int = 128,
    num_layers: int = 4,
    vocab_size: int = 1024,
    vision_hidden: int = 64,
    vision_layers: int = 2,
    patch_size: int = 4,
    image_size: int = 32,
    seed: int = 0,
) -> Path:
    """Write a random small Qwen2.5-VL that `Qwen25VL(path=folder)` reads.

    An image becomes (image_size / (2 patch_size))^2 tokens: 16 by default.

    Args:
        folder: Where to write; created if missing.
        texts: What the tokenizer is trained on (captions, questions, answers).
        hidden_size: Width of the language model; a multiple of 32.
        num_layers: Layers of the language model.
        vocab_size: Upper limit of the vocabulary, the 7 special tokens and 256 bytes included.
        vision_hidden: Width of the vision tower; a multiple of 32.
        vision_layers: Layers of the vision tower.
        patch_size: Pixels of a patch; 2 x 2 patches are merged into one token.
        image_size: Pixels; every image is resized to about image_size x image_size.
        seed: Seed of the weights.

    Returns:
        The folder.

    Raises:
        ValueError: Sizes that do not divide.
    """
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    _check_sizes(hidden_size, vocab_size, vision_hidden, patch_size, image_size)
    folder = Path(folder)
    tokenizer = train_tokenizer(texts, vocab_size)
    text = _text_config(tokenizer, hidden_size, num_layers)
    vision = _vision_config(hidden_size, vision_hidden, vision_layers, patch_size, image_size)
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in _MARKERS.items()}
    config = Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, tie_word_embeddings=True, **ids
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2_5_VLForConditionalGeneration(config)
    with no_progress_bar():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    area = image_size**2
    Qwen2VLImageProcessorPil(
        patch_size=patch_size, merge_size=2, size={"shortest_edge": area, "longest_edge": area}
    ).save_pretrained(folder)
    return folder


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Any:
    """Train a byte-level BPE with Qwen's special tokens and way of cutting words.

    Args:
        texts: Any texts; every text can be encoded afterwards, bytes are in the vocabulary.
        vocab_size: Upper limit of the vocabulary.

    Returns:
        A transformers tokenizer; padding `<|endoftext|>`, end of an answer `<|im_end|>`.
    """
    from tokenizers import (
        Regex,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        trainers,
    )
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL_TOKENS),
        padding_side="left",
    )


def _text_config(tokenizer: Any, hidden_size: int, num_layers: int) -> dict[str, Any]:
    heads = hidden_size // _HEAD_DIM
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": hidden_size,
        "intermediate_size": 2 * hidden_size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads if heads % 2 else heads // 2,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [4, 6, 6],  # sums to half a head, in the real model's 2 : 3 : 3
        },
    }


def _vision_config(
    hidden_size: int, vision_hidden: int, vision_layers: int, patch_size: int, image_size: int
) -> dict[str, Any]:
    return {
        "depth": vision_layers,
        "hidden_size": vision_hidden,
        "intermediate_size": 2 * vision_hidden,
        "num_heads": vision_hidden // _HEAD_DIM,
        "out_hidden_size": hidden_size,
        "patch_size": patch_size,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": image_size,  # one window an image
        "fullatt_block_indexes": list(range(vision_layers)),
    }


def _check_sizes(
    hidden_size: int, vocab_size: int, vision_hidden: int, patch_size: int, image_size: int
) -> None:
    smallest = len(SPECIAL_TOKENS) + 256
    problems = [
        f"{name}: {value} is no multiple of {unit}; use {max(unit, value // unit * unit)}"
        for name, value, unit in (
            ("hidden_size", hidden_size, _HEAD_DIM),
            ("vision_hidden", vision_hidden, _HEAD_DIM),
            ("image_size", image_size, 2 * patch_size),
        )
        if value <= 0 or value % unit
    ]
    if vocab_size < smallest:
        problems.append(f"vocab_size: {vocab_size} is too small; use at least {smallest}")
    if problems:
        raise ValueError("; ".join(problems))
