"""Floating-point operations: of one sample on the meta device, and of a step while it trains.

Counted are matrix products, convolutions and attention, as torch's FlopCounterMode has them; a
multiplication and an addition are two; attention counts all pairs, causal or not. Not counted:
norms, activations, embeddings, and on the meta device pictures on their way through the VLM.
B batch (1 here), T prompt tokens, K queries, D width of the VLM, N condition tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry, sdpa_flop

from qk_lightning.parts.base import Part
from qk_lightning.parts.connectors.masks import condition_mask

PROMPT_TOKENS = 64  # a caption of about 50 words


@dataclass(frozen=True)
class Cost:
    """The operations of one pass.

    Args:
        name: which pass.
        flops: how many; None where the part cannot run without numbers.
        what: what went through.
    """

    name: str
    flops: int | None
    what: str

    def describe(self) -> str:
        """Write it as a line of a table."""
        text = "not counted" if self.flops is None else _readable(self.flops)
        return f"  {self.name:<20}{text:>14}   {self.what}"


def _readable(flops: int) -> str:
    unit, name = next(
        ((10**p, n) for p, n in ((12, "T"), (9, "G")) if flops >= 10**p), (10**6, "M")
    )
    return f"{flops / unit:,.2f} {name}FLOP"


class _NothingIsPadded(TorchFunctionMode):
    """Answers yes when a part asks a mask without numbers, as in `if mask.all()`."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is Tensor.__bool__ and args[0].is_meta:
            return True
        return func(*args, **(kwargs or {}))


def count_flops(call: Callable[[], Any]) -> tuple[int | None, Any]:
    """Count the operations of a call whose tensors are on the meta device.

    Args:
        call: the pass.

    Returns:
        Operations and the call's result; None twice where it cannot run without numbers.
    """
    counter = FlopCounterMode(display=False)
    # With gradients on, though none is computed: the counter's hooks trip over views without.
    with torch.device("meta"), _NothingIsPadded(), counter:
        try:
            result = call()
        except Exception:  # whatever somebody's own code raises; the preflight says what is wrong
            return None, None
    return counter.get_total_flops(), result


class TrainingFlops(TorchDispatchMode):
    """Counts the forward passes inside it, and from them what their backward passes will cost.

    A product costs once as much again backwards for each of its two factors that needs a
    gradient: nothing for a prefix without gradient, once through a frozen layer, twice where the
    weight learns. Attention costs twice as much. So what is computed again for checkpointed
    blocks is not counted. Every operation runs as it would: no number changes.

    Attributes:
        total: operations so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        kind = func._overloadpacket
        formula = sdpa_flop if kind in _MORE_ATTENTION else flop_registry.get(kind)
        if formula is not None:
            forward = formula(*args, **(kwargs or {}), out_val=result)
            self.total += forward * (1 + _passes_back(kind, args))
        return result


_MORE_ATTENTION = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu}


def _passes_back(kind: Any, args: tuple[Any, ...]) -> int:
    """Return how many times a product's cost its backward pass takes."""
    if not torch.is_grad_enabled():
        return 0
    factors = [arg for arg in args if isinstance(arg, Tensor) and arg.is_floating_point()]
    if "attention" in str(kind):
        return 2 if any(factor.requires_grad for factor in factors[:3]) else 0
    with_summand = kind in (torch.ops.aten.addmm, torch.ops.aten.baddbmm)
    return sum(factor.requires_grad for factor in factors[with_summand:][:2])


def estimated_flops(found: Iterable[Cost], cfg: DictConfig) -> int | None:
    """Estimate a training step from one sample's forward passes.

    Args:
        found: of `costs`.
        cfg: the resolved configuration: what learns, and the global batch.

    Returns:
        Operations of all ranks; None where a pass could not be counted.
    """
    total = 0
    for cost in found:
        family = cost.name.split()[0]
        if cost.flops is None:
            return None
        if family == "autoencoder" and cfg.data.cache_latents:
            continue
        learns = cfg.trainable.get(family)
        passes = 3 if learns == "full" else 2  # a frozen or LoRA part hands the gradient on
        if family == "autoencoder" or (cost.name == "vlm prefix" and learns is None):
            passes = 1
        total += cost.flops * passes
    return total * cfg.trainer.global_batch_size or None


def costs(parts: Mapping[str, Part], cfg: DictConfig) -> list[Cost]:
    """Count one sample's forward passes.

    Args:
        parts: parts by family, on the meta device.
        cfg: the resolved configuration, for the size of pictures and what the connector carries.

    Returns:
        A line a pass; none for a system without VLM, connector and head.
    """
    if not {"vlm", "connector", "head", "autoencoder"} <= parts.keys():
        return []
    context = cfg.system.get("context", "both")
    num_queries = 0 if context == "text" else getattr(parts["queries"], "num_queries", 0)
    num_states = num_queries + (0 if context == "queries" else PROMPT_TOKENS)
    found = _vlm_costs(parts["vlm"], num_queries)
    with torch.device("meta"):
        states = torch.ones(1, num_states, parts["vlm"].hidden_size)
        mask = torch.ones(1, num_states, dtype=torch.bool)
    flops, condition = count_flops(lambda: parts["connector"](states, mask))
    found.append(Cost("connector", flops, f"{num_states} tokens"))
    mask = condition_mask(parts["connector"], mask)
    if condition is None:
        condition = torch.ones(*mask.shape, parts["head"].condition_size, device="meta")
    return [*found, *_picture_costs(parts, cfg, condition, mask)]


def _vlm_costs(vlm: Part, num_queries: int) -> list[Cost]:
    """Count the language model alone: a prompt, then the queries after it."""
    from transformers import DynamicCache

    model: Any = getattr(vlm, "model", None)
    cache: list[Any] = []

    def _run(length: int) -> Any:
        if not cache:
            cache.append(DynamicCache(config=model.config.get_text_config()))
        embeddings = torch.ones(1, length, vlm.hidden_size, dtype=model.dtype)
        return model.get_decoder()(
            inputs_embeds=embeddings, past_key_values=cache[0], use_cache=True
        )

    was_training = vlm.training
    vlm.eval()  # recomputed layers in training mode drop the cache
    prefix, _ = count_flops(lambda: _run(PROMPT_TOKENS))
    found = [Cost("vlm prefix", prefix, f"{PROMPT_TOKENS} tokens, no picture")]
    if num_queries:
        read, _ = count_flops(lambda: _run(num_queries))
        found.append(Cost("vlm read", read, f"{num_queries} queries"))
    vlm.train(was_training)
    return found


def _picture_costs(
    parts: Mapping[str, Part], cfg: DictConfig, condition: Tensor, mask: Tensor
) -> list[Cost]:
    codec, head = parts["autoencoder"], parts["head"]
    size = cfg.data.world.size
    cells = size // codec.stride
    num_images = 1 if cfg.system.get("low_level", False) else 0
    with torch.device("meta"):
        pictures = torch.ones(1, 3, size, size)
        latents = torch.ones(1, codec.latent_channels, cells, cells)
        sigma = torch.ones(1)
    image_latents = latents[:, None] if num_images else None
    roles = ("source",) * num_images
    encode, _ = count_flops(lambda: codec.encode(pictures))
    velocity, _ = count_flops(lambda: head(latents, sigma, condition, mask, image_latents, roles))
    with_source = ", 1 source" if num_images else ""
    what = f"{cells} x {cells} cells, {mask.shape[1]} condition tokens{with_source}, 1 noise level"
    return [
        Cost("head", velocity, what),
        Cost("autoencoder encode", encode, f"1 picture of {size} x {size}"),
    ]
