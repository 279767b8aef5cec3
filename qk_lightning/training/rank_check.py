"""What several ranks must agree on, looked at before the first step; a run that fails it stops."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from qk_lightning.assembly.shard import is_sharded
from qk_lightning.data.randomness import normal
from qk_lightning.training.ranks import Ranks
from qk_lightning.training.strategy import ShardedStrategy

SHOWN = 5


class RankError(RuntimeError):
    """The ranks of a run would train different models, or on the wrong samples."""


def check_parts(parts: Mapping[str, nn.Module], ranks: Ranks) -> None:
    """See that all ranks built and loaded the same parts, before anything is sharded.

    A shard is cut from each rank's own copy: where the copies differ, no rank has the model. A
    large part has no storage yet and gets its weights from the first rank: of that, what is
    compared is the names, shapes and dtypes.

    Args:
        parts: part by family.
        ranks: the run's processes; all must call it.

    Raises:
        RankError: a parameter or buffer differs, or random numbers would follow the rank.
    """
    problems = disagreements(ranks.everyone(_digests(parts.items())))
    for family, part in parts.items():
        for name, module in part.named_modules():
            if isinstance(module, nn.Dropout) and module.p and module.training:
                problems.append(f"{family}.{name} drops at random, by rank and not by sample")
    _stop(problems, "the same parts", "see that every node reads the same files and sources")


class RankCheck(Callback):
    """Look at the sharded model and at the first micro-batch.

    Args:
        ranks: the run's processes.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self._seen = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See that all that trains is sharded, and that what is not sharded agrees.

        Raises:
            RankError: it is not so.
        """
        problems = []
        if isinstance(trainer.strategy, ShardedStrategy):
            problems = unsharded(pl_module)
        problems += disagreements(self.ranks.everyone(_digests([("", pl_module)])))
        _stop(problems, "parameters that stay equal", "give the part a root or unit of sharding")

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """See that the first step's micro-batches have one layout, other samples, one noise.

        Raises:
            RankError: it is not so.
        """
        if self.ranks.world_size == 1 or self._seen >= trainer.accumulate_grad_batches:
            return
        self._seen += 1
        probe = torch.arange(2, device=batch.index.device)
        noise = normal(pl_module.seed, "noise", probe, (4,)).tolist()  # type: ignore[arg-type]
        images = None if batch.images is None else tuple(batch.images.shape)
        layout = (batch.task, batch.roles, images, tuple(batch.target.shape))
        problems = batch_problems(self.ranks.everyone((layout, batch.index.tolist(), noise)))
        fix = "see that every node has the same data"
        _stop(problems, "their own part of one micro-batch", fix)


def unsharded(module: nn.Module) -> list[str]:
    """Name what trains and is whole on every rank: its gradients would differ, unnoticed.

    Args:
        module: the system.

    Returns:
        A sentence a parameter.
    """
    learns = ((name, p) for name, p in module.named_parameters() if p.requires_grad)
    return [f"{name} trains and is not sharded" for name, p in learns if not is_sharded(p)]


def disagreements(digests: list[dict[str, str]]) -> list[str]:
    """Compare the ranks' tensors.

    Args:
        digests: digest by tensor, one dict a rank.

    Returns:
        A sentence for each tensor that is not the same on all ranks.
    """
    names = sorted(set().union(*digests))
    return [
        f"{name} differs between ranks" for name in names if len({d.get(name) for d in digests}) > 1
    ]


def batch_problems(seen: list[tuple[Any, list[int], list[Any]]]) -> list[str]:
    """Compare the ranks' micro-batches.

    Args:
        seen: layout, global sample indices and a draw of noise, one of each a rank.

    Returns:
        What is wrong with them.
    """
    problems = []
    layouts, indices, noises = zip(*seen, strict=True)
    if any(layout != layouts[0] for layout in layouts):
        problems.append(f"micro-batches differ in task, roles or sizes: {list(layouts)}")
    if len({index for part in indices for index in part}) < sum(map(len, indices)):
        problems.append(f"a sample is on two ranks: {list(indices)}")
    if any(noise != noises[0] for noise in noises):
        problems.append("noise follows the rank, not the sample")
    return problems


def _digests(modules: Iterable[tuple[str, nn.Module]]) -> dict[str, str]:
    """Digest what is whole on this rank, parameters and buffers."""
    found = {}
    for family, module in modules:
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            if not is_sharded(tensor):
                found[f"{family}.{name}".lstrip(".")] = _digest(tensor)
    return found


def _digest(tensor: Tensor) -> str:
    digest = hashlib.blake2b(f"{tensor.dtype} {tuple(tensor.shape)}".encode(), digest_size=16)
    if not tensor.is_meta:
        flat = tensor.detach().cpu().contiguous().flatten()
        digest.update(flat.view(torch.uint8).numpy())
    return digest.hexdigest()


def _stop(problems: list[str], expected: str, fix: str) -> None:
    if problems:
        more = f" and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        listed = "; ".join(problems[:SHOWN])
        raise RankError(f"ranks need {expected}: {listed}{more}. {fix}")
