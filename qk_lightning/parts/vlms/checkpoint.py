"""A transformers checkpoint on its way into memory: built without weights, filled, made whole.

Here: what goes wrong silently otherwise, namely tables and ties that no file holds. Not here: the
part that owns the model, and what a checkpoint's files say (`checkpoint_files.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from qk_lightning.parts.base import is_meta, not_finite
from qk_lightning.parts.vlms.checkpoint_files import PREPROCESSOR_FILE, read_preprocessor

ATTENTIONS = ("sdpa", "eager")  # the first that a model can run with is proposed


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
