"""What all systems share: building parts, the optimiser, and checkpoints of what trains.

A system wires parts and owns no parameter of its own.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from omegaconf import DictConfig
from torch import Tensor

from qk_lightning.assembly.build import class_of
from qk_lightning.assembly.lora import merge_in_place
from qk_lightning.assembly.replay import has_holes, replay
from qk_lightning.assembly.scatter import replay_small, scatter_weights, whole_part
from qk_lightning.assembly.shard import Sharding, shard_parts
from qk_lightning.assembly.trainable import apply_trainable
from qk_lightning.assembly.units import prepare_units
from qk_lightning.assembly.weights import Entry
from qk_lightning.config.paths import runs_root
from qk_lightning.data.latent_cache import LatentCache
from qk_lightning.data.module import DataModule
from qk_lightning.data.sample import World
from qk_lightning.parts.base import Part


class System(LightningModule):
    """A set of wired parts with a training step.

    Args:
        config: the resolved configuration.
        entries: where the parts' weights come from (`assembly.weights`).
        root: the folder that holds the run folders.

    Attributes:
        families: the parts that the system uses; read from the source by the configuration.
        uses_tasks: whether it trains on the tasks of `data.tasks`; read likewise.
        several_ranks: whether its loss is a mean over samples and its random numbers follow the
            sample, so that it may train on several ranks; read likewise.
        waits_for_mesh: the Trainer's strategy will shard it, so that parts too large for one
            device get their weights in shards; set before `configure_model`.
    """

    families: tuple[str, ...] = ()
    uses_tasks: bool = True
    several_ranks: bool = False
    wired = ("config", "entries", "root")

    def __init__(self, config: DictConfig, entries: list[Entry], root: Path | None = None) -> None:
        super().__init__()
        self.config = config
        self.entries = entries
        self.root = root or runs_root()
        self.seed: int = config.seed
        # Frozen weights are not in a checkpoint; `on_load_checkpoint` checks the rest itself.
        self.strict_loading = False
        self._is_sharded = False
        self.waits_for_mesh = False

    def configure_model(self) -> None:
        """Build, load, freeze, add LoRA and compile, once; shard, once there are ranks for it.

        The Trainer calls it again when its strategy has made a mesh of the ranks. Where
        `waits_for_mesh`, large parts have no weights until then.
        """
        if not self.is_built:
            self._build()
        if self._device_mesh is not None and not self._is_sharded:
            self._shard()

    def _build(self) -> None:
        make = replay_small if self.waits_for_mesh else replay
        parts = make(self.config, self.entries, self.families, self.root)
        empty = [family for family, part in parts.items() if has_holes(part)]
        rest = {family: part for family, part in parts.items() if family not in empty}
        apply_trainable(rest, self.config.trainable, self.seed)
        with torch.device("meta"):
            apply_trainable({f: parts[f] for f in empty}, self.config.trainable, self.seed)
        for family, part in parts.items():
            self.add_module(family, part)
        self.on_built()
        prepare_units(self.parts, self.config.trainer)

    def _shard(self) -> None:
        """Shard what `assembly.shard` says, then send large parts their weights."""
        sharding = Sharding.of(self.config.trainer)
        empty = [family for family, part in self.parts.items() if has_holes(part)]
        shard_parts(self.parts, self.device_mesh["data_parallel"], sharding)
        for family in empty:
            arguments = (self.config, self.entries, family, self.parts, self.root)
            whole = partial(whole_part, *arguments)
            scatter_weights(getattr(self, family), whole, sharding.cpu_offload)
        self._is_sharded = True

    def on_built(self) -> None:
        """Do what remains when the parts are built, before they are sharded."""

    @property
    def is_built(self) -> bool:
        """Whether `configure_model` has run."""
        return all(hasattr(self, family) for family in self.families)

    @property
    def parts(self) -> dict[str, Part]:
        """The parts by family."""
        return {family: getattr(self, family) for family in self.families}

    def data_module(self, world: World, latents: LatentCache | None) -> DataModule:
        """Return the data that this system trains on.

        Args:
            world: the world of the configuration, prepared.
            latents: its cached latents, where the system wants them.
        """
        cfg = self.config
        return DataModule(
            world,
            dict(cfg.data.tasks),
            self.seed,
            cfg.trainer.global_batch_size,
            cfg.data.groups_per_step,
            cfg.trainer.micro_batch_size,
            latents,
            cfg.data.num_workers,
            cfg.validation.num_samples,
        )

    @property
    def wants_latents(self) -> bool:
        """Whether batches should carry cached latents."""
        return False

    def on_trained(self, data: DataModule) -> None:
        """Do what remains after the last step, before the weights are written."""

    def merge_adapters(self) -> None:
        """Merge LoRA in place, for drawing."""
        merge_in_place(self.parts)

    def configure_optimizers(self) -> dict[str, Any]:
        """Make AdamW over what trains, with its schedule.

        One group a part and kind: matrices decay, vectors do not; `optimizer.lr_scale` sets a
        part's own rate.
        """
        options = self.config.optimizer
        groups: list[dict[str, Any]] = []
        for family, decay, members in self._parameter_groups():
            lr = options.lr * options.lr_scale.get(family, 1.0)
            groups.append({"params": list(members.values()), "lr": lr, "weight_decay": decay})
        optimizer = torch.optim.AdamW(groups, betas=tuple(options.betas))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._lr_factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def _parameter_groups(self) -> list[tuple[str, float, dict[str, Tensor]]]:
        """List the optimiser's groups in order: family, weight decay, parameter by name."""
        groups = []
        for family, part in self.parts.items():
            learns = {f"{family}.{n}": p for n, p in part.named_parameters() if p.requires_grad}
            matrices = {name: p for name, p in learns.items() if p.ndim >= 2}
            vectors = {name: p for name, p in learns.items() if p.ndim < 2}
            decays = ((self.config.optimizer.weight_decay, matrices), (0.0, vectors))
            groups += [(family, decay, members) for decay, members in decays if members]
        return groups

    def _optimizer_names(self) -> list[list[str]]:
        """Name the parameters that an optimiser's state counts by number."""
        return [list(members) for _, _, members in self._parameter_groups()]

    def _lr_factor(self, step: int) -> float:
        """Learning rate at a step as a share of its peak."""
        options, total = self.config.optimizer, self.config.trainer.max_steps
        warmup = min(options.warmup_steps, total)
        if step < warmup:
            return (step + 1) / warmup
        progress = min(1.0, (step - warmup) / max(1, total - warmup))
        if options.schedule == "constant":
            return 1.0
        fall = progress if options.schedule == "linear" else (1 - math.cos(math.pi * progress)) / 2
        return 1.0 - (1.0 - options.min_lr_ratio) * fall

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep only what trains in a checkpoint, and name what the optimiser numbers."""
        checkpoint["optimizer_names"] = self._optimizer_names()
        names = {name for name, p in self.named_parameters() if p.requires_grad}
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: state[name] for name in state if name in names}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """See that a checkpoint holds exactly what trains.

        Raises:
            ValueError: it holds something else.
        """
        wanted = {name for name, p in self.named_parameters() if p.requires_grad}
        found = set(checkpoint["state_dict"])
        if wanted != found:
            raise ValueError(
                f"the checkpoint does not fit this run: missing {sorted(wanted - found)[:5]}, "
                f"unexpected {sorted(found - wanted)[:5]}; train the run again without it"
            )
        names = self._optimizer_names()
        if checkpoint.get("optimizer_names", names) != names:  # an older run's has none
            raise ValueError(
                "the checkpoint numbers the optimiser's parameters in another order: it was "
                "written by other code; train the run again without it"
            )


def build_system(cfg: DictConfig, entries: list[Entry], root: Path | None = None) -> System:
    """Construct the system that a configuration names; `configure_model` builds its parts.

    Args:
        cfg: the resolved configuration.
        entries: where the parts' weights come from.
        root: the folder that holds the run folders.
    """
    options = {key: value for key, value in cfg.system.items() if key != "name"}
    system_class = class_of("system", cfg.system.name)
    return system_class(config=cfg, entries=entries, root=root, **options)
