"""What a transformers checkpoint's files say: which model, which weights, how it sees pictures.

Not here: the model's way into memory (`checkpoint.py`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from qk_lightning.parts.base import WEIGHT_FILES
from qk_lightning.parts.base import read_config as read_json

OTHER_WEIGHTS = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".gguf")
TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "tokenizer.model")
PREPROCESSOR_FILE = "preprocessor_config.json"
PROCESSOR_FILE = "processor_config.json"  # where transformers 5 writes the same settings
WITHOUT_CACHE = {"linear_attention", "conv", "moe", "mlp"}  # layers that keep no keys and values
PARTS = ("qwen2_5_vl", "qwen3_vl", "llava_onevision", "internvl")  # named as their model_type


def holds_weights(folder: Path) -> bool:
    """Say whether a folder has safetensors, in one file or in shards.

    Args:
        folder: A checkpoint's folder.

    Returns:
        False for a configuration alone.

    Raises:
        ValueError: Weights of another kind, which random ones must not stand in for.
    """
    names = [f"{name}{end}" for name in WEIGHT_FILES for end in ("", ".index.json")]
    if any((folder / name).is_file() for name in names):
        return True
    others = sorted(file.name for file in folder.iterdir() if file.suffix in OTHER_WEIGHTS)
    if others:
        raise ValueError(
            f"vlm.path: {str(folder)!r} holds {others[0]}, and only safetensors are read: convert "
            "it (save_pretrained writes safetensors), or remove it to start from random weights"
        )
    return False


def read_config(source: str, model_type: str, *, reads_images: bool = True) -> Any:
    """Read a checkpoint's config.json: all sizes, no weights.

    Args:
        source: Folder or hub id.
        model_type: The one that the part is for; "" for any language model.
        reads_images: Whether the image settings must be there.

    Returns:
        A transformers configuration.

    Raises:
        ValueError: A checkpoint of another model, one without attention, or a folder that is not a
            whole checkpoint.
    """
    from transformers import AutoConfig

    folder = Path(source)
    if folder.is_dir():
        read_json(folder)  # says what is wrong with it
    config = AutoConfig.from_pretrained(source)
    fits = config.model_type == model_type if model_type else _is_causal_lm(config)
    if not fits:
        wanted = f"a {model_type!r}" if model_type else "a causal language model"
        part = part_for(config)
        fix = f"use vlm={part} for it" if part else "or another vlm"
        raise ValueError(
            f"vlm.path: {source!r} holds a {config.model_type!r}; expected {wanted}. "
            f"Choose another checkpoint, {fix}."
        )
    if not _attends(config.get_text_config()):
        raise ValueError(
            f"vlm.path: {source!r} holds a {config.model_type!r}, which has no attention; expected "
            "a model with attention and a key/value cache, which the queries read. Choose another "
            "checkpoint."
        )
    if folder.is_dir():
        _check_companions(folder, reads_images)
    return config


def part_for(config: Any) -> str:
    """Name the part that reads a checkpoint.

    Args:
        config: Of AutoConfig.

    Returns:
        The name in YAML, or "" where no part reads it.
    """
    if config.model_type in PARTS:
        return config.model_type
    return "causal_lm" if _is_causal_lm(config) else ""


def _is_causal_lm(config: Any) -> bool:
    """Say whether a checkpoint is a language model that reads text alone, from left to right."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    name = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type)
    # An encoder such as BERT has such a class too, which its checkpoints are not of.
    return name is not None and name in (config.architectures or [name])


def _attends(config: Any) -> bool:
    """Say whether any layer has keys and values; hybrids with state-space layers do."""
    if kinds := getattr(config, "layer_types", None):
        return bool(set(kinds) - WITHOUT_CACHE)
    return getattr(config, "num_attention_heads", None) is not None


def _check_companions(folder: Path, reads_images: bool) -> None:
    """See that the files are there that the first prompt and the first picture need."""
    problems = []
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        problems.append(f"a tokenizer ({' or '.join(TOKENIZER_FILES)})")
    settings = (PREPROCESSOR_FILE, PROCESSOR_FILE)
    if reads_images and not any((folder / name).is_file() for name in settings):
        problems.append(PREPROCESSOR_FILE)
    if problems:
        raise ValueError(
            f"vlm.path: {str(folder)!r} lacks {' and '.join(problems)}; copy what is missing from "
            "the checkpoint that it is made of."
        )


def read_text(source: str, name: str) -> str:
    """Read a text file of a checkpoint.

    Args:
        source: Folder or hub id.
        name: File name.

    Returns:
        Its content.

    Raises:
        OSError: The checkpoint has no such file.
    """
    from transformers.utils import cached_file

    return Path(cached_file(source, name)).read_text()


def read_preprocessor(source: str) -> str:
    """Read what a checkpoint says about images.

    Args:
        source: Folder or hub id.

    Returns:
        The text of preprocessor_config.json, or the same part of processor_config.json.

    Raises:
        OSError: The checkpoint has neither.
    """
    try:
        return read_text(source, PREPROCESSOR_FILE)
    except OSError:
        whole = json.loads(read_text(source, PROCESSOR_FILE))
        return json.dumps(whole["image_processor"])
