"""The VLM alone, in turns: prompts in, kontext out, and back to the queries.

B samples, K queries, D width of the VLM.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from qk_lightning.bench.timed_step import begun, long_text, read_jointly
from qk_lightning.bench.turns import Memory, Report, Turn, Turns, wait_for_device

WAYS = ("joint", "split", "kept")


def run(
    text: str,
    steps: int,
    way: str,
    text_length: int,
    variables: dict[str, str],
    bell: str,
    report: Report,
) -> None:
    """Read prompts with a frozen VLM, and go back to the queries.

    Args:
        text: YAML of the resolved configuration: its VLM, accelerator and micro-batch are used.
        steps: passes a turn.
        way: `joint`, one forward; `split`, a prefix without gradient and the queries after it;
            `kept`, the queries after a prefix that was computed before.
        text_length: tokens of every prompt.
        variables: of the environment.
        bell: see `Turns`.
        report: see `Turns`.
    """
    cfg = begun(text, variables)
    once, vlm, device = _made(cfg, way, text_length)
    memory = Memory(device)
    held = _held_for_backward(once, vlm)
    turns = Turns(bell, report)
    while turns.wait():
        turn = Turn()
        for _ in range(steps):
            once().sum().backward()
        wait_for_device(device)
        turns.took(turn, steps, {})
    turns.end({"step": memory.grown(), "held": held})


def _made(
    cfg: DictConfig, way: str, text_length: int
) -> tuple[Callable[[], Tensor], nn.Module, torch.device]:
    """Return what a pass does, in what, and where."""
    from qk_lightning.assembly.build import build_part

    use_gpu = cfg.trainer.accelerator != "cpu" and torch.cuda.is_available()
    device = torch.device("cuda" if use_gpu else "cpu")
    vlm: Any = build_part("vlm", cfg.vlm, cfg.seed, {})
    vlm.load_base()
    vlm.requires_grad_(False).to(device)
    rows, count = cfg.trainer.global_batch_size, cfg.queries.num_queries
    queries = torch.full((rows, count, vlm.hidden_size), 0.02, device=device, requires_grad=True)
    inputs = vlm.prepare([long_text(vlm, text_length)] * rows)
    if way == "joint":
        read_jointly(vlm)
    prefix = vlm.prefill(inputs) if way == "kept" else None

    def once() -> Tensor:
        """Read, as training does."""
        queries.grad = None
        return vlm(inputs, queries, prefix).kontext

    return once, vlm, device


def _held_for_backward(once: Callable[[], Tensor], vlm: nn.Module) -> int:
    """Take one pass and count the bytes that its backward pass needs, weights left out."""
    weights = {p.untyped_storage().data_ptr() for p in (*vlm.parameters(), *vlm.buffers())}
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        """Count a storage once."""
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        kontext = once()
    kontext.sum().backward()
    return sum(seen.values())
