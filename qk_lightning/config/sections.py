"""The sections of a configuration that are not parts: data, training, sampling, tracking.

A part's options live in its constructor; these are read by the assembly, the trainer and the
systems alike, so they stand here, typed and explained. No torch.
"""

from __future__ import annotations

import copy
import functools
import math
from dataclasses import dataclass, field, fields
from typing import Literal

from omegaconf import DictConfig, OmegaConf


@dataclass
class Data:
    """What is trained on, and how micro-batches are laid out.

    Args:
        tasks: weight of each task; a task with weight 0 is off.
        groups_per_step: a step's samples fall into so many groups; a group has one task and one
            layout of images. Part of a run's identity; micro-batches only split groups.
        num_workers: processes that load data; changes nothing in the results.
        cache_latents: encode all images of the world once and share the latents with every run.
    """

    tasks: dict[str, float] = field(default_factory=dict)
    groups_per_step: int = 4
    num_workers: int = 0
    cache_latents: bool = True


@dataclass
class Optimizer:
    """AdamW and its schedule.

    Args:
        lr: peak learning rate.
        lr_scale: a factor on the learning rate by part family, for example `{queries: 5}`.
        betas: AdamW's two betas.
        weight_decay: decoupled weight decay, on matrices only.
        warmup_steps: linear warm-up, in optimiser steps.
        schedule: what follows the warm-up.
        min_lr_ratio: the last learning rate as a share of the peak (cosine and linear).
        gradient_clip: largest global gradient norm; null for none.
    """

    lr: float = 1e-3
    lr_scale: dict[str, float] = field(default_factory=dict)
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    weight_decay: float = 0.0
    warmup_steps: int = 10
    schedule: Literal["constant", "cosine", "linear"] = "cosine"
    min_lr_ratio: float = 0.1
    gradient_clip: float | None = 1.0


@dataclass
class EMA:
    """Exponential moving average of what trains.

    Args:
        decay: share of the old average kept at each step; 0 turns it off.
    """

    decay: float = 0.0


@dataclass
class Trainer:
    """How long and on what a run trains.

    Args:
        max_steps: optimiser steps.
        global_batch_size: samples a step, over all ranks and micro-batches.
        micro_batch_size: samples a forward pass on one rank; null for a whole group's share.
        accelerator: Lightning's accelerator.
        devices: devices of a run, on each machine; every one is a process of its own (a rank).
        strategy: how ranks share the work. ddp: each has the whole model; fsdp: each has a part
            of what trains and of large frozen parts; auto: ddp. No effect on one device.
        precision: what is computed in half precision. bf16-mixed: matrix products; weights,
            gradients, Adam's moments, norms and the loss stay float32 (under fsdp the blocks'
            weights are gathered in bfloat16, and gradients summed in float32). bf16-true: all but
            the average of ema. 16-mixed: as bf16-mixed in float16, with a scaled loss; not under
            fsdp. 32-true: nothing.
        frozen_dtype: dtype of the weights of parts that do not train in full, in memory and in
            use, for example `{head: bfloat16}`; LoRA stays float32. A VLM has `vlm.dtype`.
        activation_checkpointing: parts whose blocks keep their inputs alone and are computed again
            in the backward pass, for example `[head, vlm]`: less memory, about a third more time.
        compile: parts whose blocks torch.compile compiles; takes minutes at the start.
        cpu_offload: under fsdp on GPUs, keep shards, gradients and Adam's moments in the host's
            memory: for what fits no other way, at a multiple of the time.
        checkpoint_every: steps between checkpoints.
        log_every: steps between lines of metrics.
        keep_best: a metric of validation, such as `val/loss`; the checkpoint where it was best
            stays beside the last ones, as `best-step=<n>.ckpt`. null keeps the last ones alone.
        spike_threshold: a step whose loss or gradient norm is so many median absolute deviations
            above the median is logged as a spike, with its samples; null for none.
        spike_window: how many steps that median is taken over.
        perf: measure speed, memory and the share of the device's peak, as metrics `perf/...`;
            changes nothing in the results.
    """

    max_steps: int = 100
    global_batch_size: int = 64
    micro_batch_size: int | None = None
    accelerator: str = "auto"
    devices: int = 1
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    precision: Literal["32-true", "16-mixed", "bf16-mixed", "bf16-true"] = "32-true"
    frozen_dtype: dict[str, str] = field(default_factory=dict)
    activation_checkpointing: list[str] = field(default_factory=list)
    compile: list[str] = field(default_factory=list)
    cpu_offload: bool = False
    checkpoint_every: int = 100
    log_every: int = 10
    keep_best: str | None = None
    spike_threshold: float | None = 6.0
    spike_window: int = 100
    perf: bool = True


@dataclass
class Sampling:
    """How pictures are drawn.

    Args:
        num_inference_steps: steps of the objective's scheduler.
        guidance_scale: weight of the prompt; 1 = no guidance.
        image_guidance_scale: weight of the input images; 1 = no guidance of its own.
        guidance: which of the two weights count; text_and_image is three-way guidance where there
            are images and both weights differ from 1.
    """

    num_inference_steps: int = 12
    guidance_scale: float = 1.0
    image_guidance_scale: float = 1.0
    guidance: Literal["text_and_image", "text", "none"] = "text_and_image"


@dataclass
class Validation:
    """What is measured at the end of a run and in between.

    Args:
        every: steps between validations; 0 = at the end only.
        num_samples: validation samples a task for the loss.
        num_images: pictures drawn a world and task for the suites and the sample grid.
        suites: suites that are drawn and scored at the end; empty = all that fit.
        num_grid: how many of them are kept in the run folder.
        batch_size: samples a forward pass when pictures are drawn.
    """

    every: int = 0
    num_samples: int = 64
    num_images: int = 48
    suites: list[str] = field(default_factory=list)
    num_grid: int = 6
    batch_size: int = 48


@dataclass
class Tracking:
    """Where a run is shown besides its folder.

    Args:
        name: `mlflow`, or `none` for the run folder alone.
        experiment: MLflow's experiment.
    """

    name: Literal["mlflow", "none"] = "mlflow"
    experiment: str = "qk_lightning"


@dataclass
class Lora:
    """Low-rank adapters on a frozen part.

    Args:
        rank: rank of the update.
        alpha: the update is scaled by alpha / rank; null = rank.
        targets: names of the linear layers; empty = the part's own choice.
    """

    rank: int = 16
    alpha: float | None = None
    targets: list[str] = field(default_factory=list)


SECTIONS: dict[str, type] = {
    "data": Data,
    "optimizer": Optimizer,
    "ema": EMA,
    "trainer": Trainer,
    "sampling": Sampling,
    "validation": Validation,
    "tracking": Tracking,
}


def structured_section(section: type) -> DictConfig:
    """Return a section at its defaults, as OmegaConf's structured config that checks types.

    Args:
        section: one of the dataclasses here.
    """
    return copy.deepcopy(_structured(section))  # a sweep composes hundreds of times


@functools.cache
def _structured(section: type) -> DictConfig:
    config: DictConfig = OmegaConf.structured(section)
    return config


def option_names(section: type) -> list[str]:
    """List the options of a section.

    Args:
        section: one of the dataclasses here.
    """
    return [item.name for item in fields(section)]


# Keys at the top of a configuration that are plain values: name -> (type, default, meaning).
TOP_LEVEL: dict[str, tuple[type, object, str]] = {
    "name": (str, None, "name of the run; its folder is `<name>-<identity>`"),
    "stage": (str, None, "label of this stage in its chain, as in `stage1.optimizer.lr=...`"),
    "seed": (int, 0, "seed of initial weights, data order, noise and dropout"),
    "parent": (str, None, "what this stage continues: a preset, a run or exported folder"),
    "resume": (
        str,
        "auto",
        "what it goes on from. auto: its newest checkpoint, if any; latest: that one, or an error; "
        "false: begin anew; or a checkpoint file, of this run or of another that trains the same",
    ),
    "reference_seconds": (float, None, "seconds of one run on one laptop thread (estimates only)"),
}
# Smallest and largest value of numbers.
RANGES: dict[str, tuple[float, float]] = {
    "data.groups_per_step": (1, math.inf),
    "data.num_workers": (0, math.inf),
    "ema.decay": (0, 0.999999),
    "optimizer.lr": (0, math.inf),
    "optimizer.warmup_steps": (0, math.inf),
    "optimizer.weight_decay": (0, math.inf),
    "optimizer.min_lr_ratio": (0, 1),
    "optimizer.gradient_clip": (0, math.inf),
    "sampling.guidance_scale": (-math.inf, math.inf),
    "sampling.image_guidance_scale": (-math.inf, math.inf),
    "sampling.num_inference_steps": (1, math.inf),
    "trainer.max_steps": (1, math.inf),
    "trainer.global_batch_size": (1, math.inf),
    "trainer.micro_batch_size": (1, math.inf),
    "trainer.devices": (1, math.inf),
    "trainer.checkpoint_every": (1, math.inf),
    "trainer.log_every": (1, math.inf),
    "trainer.spike_threshold": (0, math.inf),
    "trainer.spike_window": (2, math.inf),
    "validation.every": (0, math.inf),
    "validation.num_samples": (0, math.inf),
    "validation.num_images": (0, math.inf),
    "validation.num_grid": (0, math.inf),
    "validation.batch_size": (1, math.inf),
}
# What cannot change a result stays out of a run's identity.
NOT_IN_IDENTITY = (
    "name",
    "stage",
    "parent",
    "resume",  # of another run's checkpoint the fingerprint is in it
    "reference_seconds",
    "tracking",
    "data.num_workers",
    "data.cache_latents",
    "trainer.micro_batch_size",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.strategy",
    "trainer.activation_checkpointing",
    "trainer.compile",
    "trainer.cpu_offload",
    "trainer.checkpoint_every",
    "trainer.log_every",
    "trainer.keep_best",
    "trainer.spike_threshold",
    "trainer.spike_window",
    "trainer.perf",
    "validation.batch_size",
)
