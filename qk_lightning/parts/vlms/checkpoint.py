"""A transformers checkpoint on its way into memory: built without weights, filled, made whole.

Here: what goes wrong silently otherwise, namely tables and ties that no file holds. Not here: the
part that owns the model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from qk_lightning.parts.base import WEIGHT_FILES, is_meta, not_finite
from qk_lightning.parts.base import read_config as read_json

OTHER_WEIGHTS = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".gguf")
TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "tokenizer.model")
PREPROCESSOR_FILE = "preprocessor_config.json"
PROCESSOR_FILE = "processor_config.json"  # where transformers 5 writes the same settings
ATTENTIONS = ("sdpa", "eager")  # the first that a model can run with is proposed
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


def build(config: Any, auto_class: str, *, initialise: bool, **options: Any) -> nn.Module:
    """Build the model that a configuration names.

    Queries of width hidden_size enter beside the embeddings of tokens, so these are as wide.

    Args:
        config: Of AutoConfig.
        auto_class: The class of transformers that builds it.
        initialise: Draw random weights; otherwise they are allocated only, to be loaded.
        **options: dtype and attn_implementation.

    Returns:
        The model, on the meta device where that is torch's default device.

    Raises:
        ValueError: The model has no such attention, or embeddings of another width.
    """
    import transformers

    builder = getattr(transformers, auto_class)
    device = torch.get_default_device()
    with torch.device(device if initialise else "meta"):
        model = _built(builder, config, options)
    _check_width(model)
    is_done = initialise or device == torch.device("meta")
    return model if is_done else model.to_empty(device=device)


def _built(builder: Any, config: Any, options: dict[str, Any]) -> nn.Module:
    """Build, and where that fails see whether another attention would do."""
    try:
        return builder.from_config(config, **options)
    except (ValueError, ImportError) as error:
        given = options["attn_implementation"]
        others = [one for one in ATTENTIONS if one != given]
        other = next((one for one in others if _builds(builder, config, one)), "")
        if not other:
            raise
        raise ValueError(
            f"vlm.attention: {given!r}, expected one that a {config.model_type!r} can run with "
            f"here ({str(error).splitlines()[0]}); set vlm.attention={other}."
        ) from error


def _builds(builder: Any, config: Any, attention: str) -> bool:
    try:
        with torch.device("meta"):
            builder.from_config(config, attn_implementation=attention)
    except (ValueError, ImportError):
        return False
    return True


def _check_width(model: nn.Module) -> None:
    sizes = model.config.get_text_config()
    width, wanted = model.get_input_embeddings().weight.shape[-1], sizes.hidden_size
    if width != wanted:
        raise ValueError(
            f"vlm.path: a {model.config.model_type!r} with token embeddings of width {width}, "
            f"expected {wanted} (hidden_size), since the queries stand beside them. Choose another "
            "checkpoint."
        )


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


def save(model: nn.Module, tokenizer: Any, source: str | None, folder: Path) -> None:
    """Write a checkpoint that `load` reads: model, tokenizer, preprocessor_config.json.

    Args:
        model: The VLM, with LoRA merged.
        tokenizer: Of the VLM.
        source: Where preprocessor_config.json is taken from; None where there is none.
        folder: Created if missing.

    Raises:
        ValueError: LoRA is still apart from the weights.
    """
    if any("lora_" in name for name, _ in model.named_parameters()):
        raise ValueError("vlm: LoRA is not merged; merge it before export.")
    text = None if source is None else read_preprocessor(source)
    with no_progress_bar():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if text is not None:
        (Path(folder) / PREPROCESSOR_FILE).write_text(text)


def restore(model: nn.Module) -> None:
    """Make whole what no file holds: tables such as RoPE's, always float32, and tied weights.

    `to_empty` leaves tables undefined and weights apart; `half()` and `to(torch.bfloat16)`, and so
    Lightning's bf16-true, would round the tables and shift every position.

    Args:
        model: Left alone while it is on the meta device.
    """
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if embedding.weight.is_meta:
        return
    if model.config.tie_word_embeddings and head.weight is not embedding.weight:
        head.weight = embedding.weight
    for owner, module in _holders_of_tables(model):
        for name, buffer in list(module.named_buffers(recurse=False)):
            if name in module._non_persistent_buffers_set:
                dtype = torch.float32 if buffer.is_floating_point() else buffer.dtype
                module._buffers[name] = torch.empty_like(
                    buffer, dtype=dtype, device=embedding.weight.device
                )
        with _weights_kept(module):
            owner._init_weights(module)


def _holders_of_tables(model: nn.Module) -> Iterator[tuple[nn.Module, nn.Module]]:
    """List modules with buffers that are not saved, each with the model whose part it is."""
    from transformers import PreTrainedModel

    stack = [(model, model)]
    while stack:
        owner, module = stack.pop()
        if module._non_persistent_buffers_set:
            yield owner, module
        for child in module.children():
            stack.append((child if isinstance(child, PreTrainedModel) else owner, child))


@contextmanager
def _weights_kept(module: nn.Module) -> Iterator[None]:
    """Mark weights as loaded: transformers' initialisation leaves those alone."""
    weights = [p for p in module.parameters() if not getattr(p, "_is_hf_initialized", False)]
    for weight in weights:
        weight._is_hf_initialized = True
    try:
        yield
    finally:
        for weight in weights:
            del weight._is_hf_initialized


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
