"""A transformers checkpoint on its way into memory: built without weights, filled, made whole.

Here: what goes wrong silently otherwise, namely tables and ties that no file holds. Not here: the
part that owns the model.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from qk_lightning.parts.base import WEIGHT_FILES, is_meta, not_finite
from qk_lightning.parts.base import read_config as read_json

OTHER_WEIGHTS = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".gguf")
TOKENIZER_FILES = ("tokenizer.json", "vocab.json")
PREPROCESSOR_FILE = "preprocessor_config.json"


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


def read_config(source: str, model_type: str) -> Any:
    """Read a checkpoint's config.json: all sizes, no weights.

    Args:
        source: Folder or hub id.
        model_type: The one that the part is for.

    Returns:
        A transformers configuration.

    Raises:
        ValueError: A checkpoint of another model, or a folder that is not a whole checkpoint.
    """
    from transformers import AutoConfig

    folder = Path(source)
    if folder.is_dir():
        read_json(folder)  # says what is wrong with it
    config = AutoConfig.from_pretrained(source)
    if config.model_type != model_type:
        raise ValueError(
            f"vlm.path: {source!r} holds a {config.model_type!r}; expected a {model_type!r}. "
            "Choose another checkpoint, or another vlm."
        )
    if folder.is_dir():
        _check_companions(folder)
    return config


def _check_companions(folder: Path) -> None:
    """See that the files are there that the first prompt and the first picture need."""
    problems = []
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        problems.append(f"a tokenizer ({' or '.join(TOKENIZER_FILES)})")
    if not (folder / PREPROCESSOR_FILE).is_file():
        problems.append(PREPROCESSOR_FILE)
    if problems:
        raise ValueError(
            f"vlm.path: {str(folder)!r} lacks {' and '.join(problems)}; copy what is missing from "
            "the checkpoint that it is made of."
        )


def build(config: Any, *, initialise: bool, **options: Any) -> nn.Module:
    """Build the model that a configuration names.

    Args:
        config: Of AutoConfig.
        initialise: Draw random weights; otherwise they are allocated only, to be loaded.
        **options: dtype and attn_implementation.

    Returns:
        The model, on the meta device where that is torch's default device.
    """
    from transformers import AutoModelForImageTextToText

    device = torch.get_default_device()
    if initialise or device == torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config, **options)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, **options)
    return model.to_empty(device=device)


def load(model: nn.Module, source: str, **options: Any) -> nn.Module:
    """Load a checkpoint through transformers: old key names, shards and hub ids included.

    Args:
        model: Built from the same configuration; says which parameters are frozen, and where
            they are.
        source: Folder or hub id; safetensors only.
        **options: dtype and attn_implementation.

    Returns:
        A model with the checkpoint's weights.

    Raises:
        ValueError: Weights are missing, left over, of another shape, or not finite.
    """
    told = {"output_loading_info": True, "ignore_mismatched_sizes": True}  # all is refused below
    with no_progress_bar():
        loaded, report = type(model).from_pretrained(
            source, use_safetensors=True, **told, **options
        )
    problems = {k: sorted(map(str, v)) for k, v in report.items() if v}
    if bad := not_finite(dict(loaded.named_parameters())):
        problems["nan_or_inf"] = bad
    if problems:
        raise ValueError(f"vlm.path: the weights in {source} do not fit the model: {problems}")
    frozen = {name for name, own in model.named_parameters() if not own.requires_grad}
    for name, new in loaded.named_parameters():
        new.requires_grad_(name not in frozen)
    return loaded.to("cpu" if is_meta(model) else next(model.parameters()).device)


def save(model: nn.Module, tokenizer: Any, source: str, folder: Path) -> None:
    """Write a checkpoint that `load` reads: model, tokenizer, preprocessor_config.json.

    Args:
        model: The VLM, with LoRA merged.
        tokenizer: Of the VLM.
        source: Where preprocessor_config.json is taken from.
        folder: Created if missing.

    Raises:
        ValueError: LoRA is still apart from the weights.
    """
    if any("lora_" in name for name, _ in model.named_parameters()):
        raise ValueError("vlm: LoRA is not merged; merge it before export.")
    text = read_text(source, PREPROCESSOR_FILE)
    with no_progress_bar():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (Path(folder) / PREPROCESSOR_FILE).write_text(text)


def restore(model: nn.Module) -> None:
    """Make whole what no file holds: RoPE tables, always float32, and tied weights.

    `to_empty` leaves tables undefined and weights apart; `half()` and `to(torch.bfloat16)`, and so
    Lightning's bf16-true, would round the tables and shift every position.

    Args:
        model: Left alone while it is on the meta device.
    """
    embedding = model.get_input_embeddings()
    if embedding.weight.is_meta:
        return
    if model.config.tie_word_embeddings and model.lm_head.weight is not embedding.weight:
        model.lm_head.weight = embedding.weight
    for module in model.modules():
        if hasattr(module, "inv_freq"):
            for name, buffer in list(module.named_buffers(recurse=False)):
                module._buffers[name] = torch.empty_like(
                    buffer, dtype=torch.float32, device=embedding.weight.device
                )
            model._init_weights(module)


def recompute_layers(model: nn.Module) -> None:
    """Switch gradient checkpointing on; it acts on layers in training mode.

    Args:
        model: The VLM.
    """
    enable = getattr(model, "activation_checkpointing_enable", None)
    enable = enable or model.gradient_checkpointing_enable  # its name before transformers 5.2x
    enable({"use_reentrant": False})
    # Enabling also makes the embeddings require a gradient, which only reentrant recomputing
    # needs, and which would back-propagate through all that is frozen.
    model.disable_input_require_grads()


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


@contextmanager
def no_progress_bar() -> Iterator[None]:
    """Keep transformers' bars for reading and writing weights off the terminal."""
    from transformers.utils import logging

    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()
