"""What is seen between the backward pass and the optimiser step: the loss and the gradient's norm.

A step that is not finite never reaches the weights: the run stops before it. The norm is measured
once, for the guard, for clipping and for the metrics. Spikes are told apart in spikes.py,
parameters without a gradient in idle.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer

from qk_lightning.assembly.shard import is_sharded
from qk_lightning.config.run_folder import RunFolder
from qk_lightning.training.ranks import Ranks
from qk_lightning.training.spikes import Samples, SpikeLog, samples_of

SHOWN = 3
LOSS, NORM = "train/loss", "train/grad_norm"


class StepGuard(Callback):
    """Stop before a step that is not finite; else clip, log loss and norm, and look for a spike.

    All ranks decide alike: the loss is their mean, the norm that of the whole gradient. Under
    16-mixed a gradient that overflows is skipped by the scaler, as it should be: there only the
    loss stops a run.

    Args:
        run: the run's folder.
        ranks: the run's processes.
        clip: largest norm of the gradient, 0 or None for none.
        spikes: looks at loss and norm of each step.
    """

    def __init__(self, run: RunFolder, ranks: Ranks, clip: float | None, spikes: SpikeLog) -> None:
        self.run = run
        self.ranks = ranks
        self.clip = clip or 0.0
        self.spikes = spikes
        self._loss: Tensor | None = None
        self._samples: list[Samples] = []

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Remember which samples the step is made of; nothing is copied from a device."""
        self._samples.append(samples_of(batch))

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        """Add up the step's loss; Lightning has divided it by the number of micro-batches."""
        part = loss.detach().float()
        self._loss = part if self._loss is None else self._loss + part

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Look at the step, once for all ranks, with one wait for the device.

        Raises:
            FloatingPointError: the loss or the gradient is not finite.
        """
        assert self._loss is not None
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norm = gradient_norm(parameters)
        mean = trainer.strategy.reduce(self._loss, reduce_op="mean")
        loss, size = torch.stack([mean.to(norm), norm]).tolist()
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        loss = loss / scaler.get_scale() if scaler is not None else loss
        samples, self._samples, self._loss = self._samples, [], None
        step = trainer.global_step + 1
        if not math.isfinite(loss) or not (math.isfinite(size) or scaler is not None):
            raise FloatingPointError(self._said(pl_module, step, loss, size, samples))
        pl_module.log(LOSS, loss, on_step=True, on_epoch=False)  # of all micro-batches and ranks
        if not math.isfinite(size):
            return  # the scaler leaves this step out
        if self.clip:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.clip, norm)
        pl_module.log(NORM, size, on_step=True, on_epoch=False)
        self.spikes.look(step, {"loss": loss, "grad_norm": size}, samples)

    def _said(
        self,
        module: LightningModule,
        step: int,
        loss: float,
        norm: float,
        samples: list[Samples],
    ) -> str:
        """Say what is not finite, where first, with which samples, and what to do. One line."""
        what = f"the gradient of step {step} is not finite (norm {norm}, loss {loss:.4g})"
        if not math.isfinite(loss):
            what = f"the loss of step {step} is {loss}"
        weights = self._of_all(not_finite(module, gradients=False))
        names = weights or self._of_all(not_finite(module))
        where = ""
        if names:
            shown = ", ".join(names[:SHOWN])
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            where = f"; {'weights' if weights else 'gradients'} not finite in {shown}{more}"
        told = self.ranks.everyone([one.plain() for one in samples])
        indices = sorted(index for of_rank in told for one in of_rank for index in one.indices)
        tasks = dict.fromkeys(one.task for of_rank in told for one in of_rank if one.task)
        of = f"; samples {_span(indices)}" if indices else ""
        of += f" ({', '.join(tasks)})" if tasks else ""
        return (
            f"{what}{where}{of}; the weights are still those of step {step - 1}, and nothing of "
            f"this step was kept; {self._fix()}"
        )

    def _fix(self) -> str:
        lower = "lower optimizer.lr or optimizer.gradient_clip, which is a run of its own"
        files = self.run.checkpoint_files()
        if not files:
            return f"fix: {lower}"
        return f"fix: {lower}, with resume={files[0]} to go on from there, or from an older one"

    def _of_all(self, names: list[str]) -> list[str]:
        """Join names that each rank found in its shards, in the order of the first that has any."""
        return list(
            dict.fromkeys(name for of_rank in self.ranks.everyone(names) for name in of_rank)
        )


def gradient_norm(parameters: list[nn.Parameter]) -> Tensor:
    """Return the norm of a gradient, that of the whole where it is sharded.

    Args:
        parameters: those of the optimiser; all ranks must call it.

    Returns:
        A scalar on the parameters' device, float32.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    norm = norm.full_tensor() if is_sharded(norm) else norm  # type: ignore[attr-defined]
    return norm.float()


def not_finite(module: nn.Module, gradients: bool = True) -> list[str]:
    """Name what trains and is not finite, or whose gradient is not.

    Args:
        module: the system; of a sharded one this rank's shards are looked at.
        gradients: look at the gradients; else at the weights.

    Returns:
        Names in the order of the model.
    """
    return [name for name, tensor in _local(module, gradients) if not torch.isfinite(tensor).all()]


def _local(module: nn.Module, gradients: bool) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in module.named_parameters():
        tensor = parameter.grad if gradients else parameter.detach()
        if parameter.requires_grad and tensor is not None:
            yield name, tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def _span(indices: list[int]) -> str:
    is_whole = indices == list(range(indices[0], indices[-1] + 1))
    if is_whole and len(indices) > 1:
        return f"{indices[0]} to {indices[-1]}"
    return ", ".join(map(str, indices))


def describe_step(options: Mapping[str, Any], world_size: int, accumulated: int) -> str:
    """Say how the samples of a step fall onto ranks and micro-batches.

    Args:
        options: the configuration's `trainer`.
        world_size: number of ranks.
        accumulated: micro-batches a rank and step.

    Returns:
        For example `64 samples a step = 2 ranks x 4 micro-batches x 8`.
    """
    samples = options["global_batch_size"]
    ranks = f"{world_size} rank{'s' * (world_size > 1)}"
    passes = f"{accumulated} micro-batch{'es' * (accumulated > 1)}"
    return f"{samples} samples a step = {ranks} x {passes} x {samples // world_size // accumulated}"
