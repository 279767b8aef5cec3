"""What a run's speed is made of: images per second, a step's seconds, memory, share of the peak.

Logged as `perf/...` beside the other metrics, every `trainer.log_every` steps, from the second
step on. It reads clocks and changes no number; nothing waits for a GPU but the logging itself.
Not here: clocks (clock.py), calls into parts (part_hooks.py), the ceiling (peak.py).
"""

from __future__ import annotations

import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.profilers import PassThroughProfiler, Profiler
from omegaconf import DictConfig

from qk_lightning.assembly.flops import TrainingFlops, costs, estimated_flops
from qk_lightning.config.run_folder import RunFolder
from qk_lightning.training.callbacks import Report
from qk_lightning.training.clock import Clock, peak_memory
from qk_lightning.training.part_hooks import PartHooks
from qk_lightning.training.peak import peak_flops

# The objective is a formula, and its time the loss's.
SPANS = {"vlm": "vlm", "queries": "head", "connector": "head", "head": "head"}
SPANS |= {"autoencoder": "autoencoder"}  # where latents are not cached
FETCHING = (".train_dataloader_next", ".batch_to_device")
SAVING = "save_checkpoint"


class PerfCallback(Callback):
    """Measure training steps; the first of the callbacks, so that it sees a step's own work.

    Seconds are a step's, the mean over ranks: `data` is the host's wait for a micro-batch and its
    copy to the device, `vlm` and `head` (queries, connector and head) forward passes, `backward`
    and `optimizer` (with clipping) what they say, and `step` all of it, with the average and
    logging, without validation and checkpoints. On a GPU the parts of a step are one interval
    old, and read from its stream.
    `perf/flops_utilization` is model FLOPs: forward passes and the gradients they need, counted
    in the run's first step (`TrainingFlops`); recomputation is not counted. Steps differ in
    prompts and tasks, so it is as good as the first step is like the others. Where parts are
    compiled the dry run's figures of one sample stand in, since counting would undo compiling.

    Args:
        run: the run's folder; `status.json` receives `flops_per_step` and `peak_flops`, of all
            ranks.
        cfg: its configuration.
    """

    def __init__(self, run: RunFolder, cfg: DictConfig) -> None:
        self.run = run
        self.cfg = cfg
        self.latest: dict[str, float] = {}
        self.flops_per_step = self.peak = 0.0
        self._hooks = PartHooks(self._part_begins, self._part_ends)
        self._counter: TrainingFlops | None = None
        self._step = self._timed_from = 0
        self._begun_at = self._paused = 0.0
        self._pause: float | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Listen to the loop for what no callback is told: fetching and saving."""
        if isinstance(trainer.profiler, PassThroughProfiler):
            trainer.profiler = _Listener(self)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the ceiling and follow the parts."""
        device = trainer.strategy.root_device
        self._clock = Clock(device)
        self._peak_here = peak_flops(device, self.cfg.trainer.precision)
        self._step = trainer.global_step
        self._timed_from = -1  # the first step is counted, and no other is like it
        if not self.cfg.trainer.get("compile"):
            self._counter = TrainingFlops()
        self._hooks.attach(pl_module.parts)

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: torch.Tensor
    ) -> None:
        """Note when it begins."""
        self._mark = self._clock.mark()

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note when it ended."""
        self._clock.add("backward", self._mark)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Any
    ) -> None:
        """Note when clipping and the optimiser begin."""
        self._mark = self._clock.mark()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log after a step that is due."""
        step = trainer.global_step
        if step == self._step:
            return  # between micro-batches
        self._step = step
        self._clock.add("optimizer", self._mark)
        if self._timed_from < 0:
            self._note_cost(trainer, pl_module)
            self._begin_interval()
        elif step % trainer.log_every_n_steps == 0:
            self._log(trainer)
            self._begin_interval()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock until the next micro-batch is fetched."""
        self.pause()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the parts as they were."""
        self._hooks.detach()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Leave the parts as they were."""
        if self._counter is not None and self._hooks.is_inside:
            self._counter.__exit__(None, None, None)
        self._hooks.detach()

    def pause(self) -> None:
        """Begin what is no part of a step."""
        if self._pause is None:
            self._pause = time.perf_counter()

    def go_on(self) -> None:
        """End it."""
        if self._pause is not None:
            self._paused += time.perf_counter() - self._pause
            self._pause = None

    def fetched(self, begun: float) -> None:
        """Take the host's seconds of a micro-batch.

        Args:
            begun: when fetching it began.
        """
        if self._pause is None and hasattr(self, "_clock"):
            self._clock.add_host("data", begun)

    def reporting(self, report: Report | None) -> Report | None:
        """Return a report of progress that tells the share of the peak as well.

        Args:
            report: who wants to know.
        """

        def with_share(message: dict[str, Any]) -> None:
            """Add the last measured one."""
            share = self.latest.get("perf/flops_utilization")
            known = {} if share is None else {"flops_utilization": share}
            assert report is not None
            report({**message, **known})

        return None if report is None else with_share

    def _part_begins(self, family: str) -> None:
        self._part_mark = self._clock.mark()
        if self._counter is not None:
            self._counter.__enter__()

    def _part_ends(self, family: str) -> None:
        if self._counter is not None:
            self._counter.__exit__(None, None, None)
        if family in SPANS and self._pause is None:
            self._clock.add(SPANS[family], self._part_mark)

    def _begin_interval(self) -> None:
        self._begun_at, self._paused = time.perf_counter(), 0.0
        self._timed_from = self._step

    def _note_cost(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep what the first step cost, of all ranks, and forget its seconds."""
        counted = float(self._counter.total) if self._counter is not None else 0.0
        self._counter = None
        totals = _of_ranks(trainer, [counted, self._peak_here]).sum(dim=0)
        self.flops_per_step, self.peak = totals.tolist()
        if self.cfg.trainer.get("compile"):
            self.flops_per_step = float(_estimate(self.cfg) or 0)
        if trainer.is_global_zero and self.flops_per_step:
            self.run.write_status(flops_per_step=self.flops_per_step, peak_flops=self.peak)
        self._clock.collect()

    def _log(self, trainer: Trainer) -> None:
        steps = self._step - self._timed_from
        seconds = time.perf_counter() - self._begun_at - self._paused
        spans = {"step": seconds, **self._clock.collect()}
        names = sorted({*SPANS.values(), "data", "backward", "optimizer", "step"})
        memory = float(peak_memory(self._clock.device))
        mine = [spans.get(name, 0.0) / steps for name in names]
        of_all = _of_ranks(trainer, [*mine, memory])
        means = dict(zip(names, of_all.mean(dim=0).tolist(), strict=False))
        values = {f"perf/seconds/{name}": mean for name, mean in means.items() if mean}
        values["perf/memory_gib"] = of_all[:, -1].max().item() / 2**30
        values["perf/images_per_second"] = self.cfg.trainer.global_batch_size / means["step"]
        if self.flops_per_step:
            reached = self.flops_per_step / means["step"]
            values["perf/flops_utilization"] = reached / self.peak
        self.latest = values
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.log_metrics(values, step=self._step - 1)  # Lightning's first step is 0


class _Listener(Profiler):
    """Hears from Lightning's loop when it fetches micro-batches and saves checkpoints."""

    def __init__(self, perf: PerfCallback) -> None:
        super().__init__()
        self.perf = perf
        self._begun = 0.0

    def start(self, action_name: str) -> None:
        """Hear that something begins."""
        if action_name.endswith(FETCHING):
            if action_name.endswith(FETCHING[0]):
                self.perf.go_on()
            self._begun = time.perf_counter()
        elif action_name == SAVING:
            self.perf.pause()

    def stop(self, action_name: str) -> None:
        """Hear that it ended."""
        if action_name.endswith(FETCHING):
            self.perf.fetched(self._begun)
        elif action_name == SAVING:
            self.perf.go_on()


def _of_ranks(trainer: Trainer, values: list[float]) -> torch.Tensor:
    """Gather values of all ranks, [ranks, values] float64 on the CPU."""
    device = trainer.strategy.root_device
    dtype = torch.float32 if device.type == "mps" else torch.float64
    gathered = trainer.strategy.all_gather(torch.tensor(values, dtype=dtype, device=device))
    return gathered.reshape(-1, len(values)).cpu()


def _estimate(cfg: DictConfig) -> int | None:
    from qk_lightning.assembly.dry_run import meta_parts

    return estimated_flops(costs(meta_parts(cfg), cfg), cfg)
