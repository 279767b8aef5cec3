"""Looking before leaping: mistakes that only show when parts meet, found before any run starts.

Built on the meta device, so no weights are read; a chain's last stage is checked before its
first one trains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from qk_lightning.config.chain import StagePlan
from qk_lightning.config.errors import ConfigError, Problem
from qk_lightning.config.handover import unlike_parent
from qk_lightning.config.resume import file_of
from qk_lightning.config.schema import schema_of

if TYPE_CHECKING:
    from qk_lightning.data.sample import World
    from qk_lightning.parts.base import Part

CHECK = "qk_lightning.sweeps.preflight:problems_of"


def texts_to_check(plans: Sequence[StagePlan]) -> list[tuple[str, str]]:
    """Return the configurations of runs that will train, each kind once.

    Args:
        plans: the runs.

    Returns:
        YAML of a run and of its parent ("" without one); seeds are made equal, since no check
        depends on them.
    """
    texts = []
    for plan in plans:
        if not plan.folder.is_done:
            parent = plan.parent.cfg if plan.parent else None
            if parent is None and plan.parent_folder is not None:
                parent = plan.parent_folder.config
            texts.append((_seedless(plan.cfg), _seedless(parent) if parent is not None else ""))
    return list(dict.fromkeys(texts))


def _seedless(cfg: DictConfig) -> str:
    return OmegaConf.to_yaml(OmegaConf.merge(cfg, {"seed": 0}))


def problems_of(texts: Sequence[tuple[str, str]], here: bool = True) -> list[Problem]:
    """Check configurations: parts fit together and to the parent's, the world has the tasks.

    Args:
        texts: YAML of resolved configurations and of their parents.
        here: they will run on this machine, so it must have their accelerator.

    Returns:
        What is wrong, each problem once.
    """
    found: dict[str, Problem] = {}
    for text, parent_text in texts:
        cfg, parent = OmegaConf.create(text), OmegaConf.create(parent_text or "{}")
        assert isinstance(cfg, DictConfig) and isinstance(parent, DictConfig)
        try:
            if here:
                _check_accelerator(cfg)
            world = _check_data(cfg)
            _check_parts(cfg, parent, world)
        except ConfigError as error:
            found |= {str(problem): problem for problem in error.problems}
    return list(found.values())


def _check_parts(cfg: DictConfig, parent: DictConfig, world: World) -> None:
    from qk_lightning.assembly.build import families_of
    from qk_lightning.assembly.dry_run import meta_parts
    from qk_lightning.assembly.fitting import head_problems
    from qk_lightning.assembly.readable import damaged_bases
    from qk_lightning.assembly.trial import connector_problems
    from qk_lightning.assembly.units import unit_problems
    from qk_lightning.systems.base import build_system
    from qk_lightning.systems.query_kontext import VLM_ALONE

    build_system(cfg, [])
    parts = meta_parts(cfg)
    problems = [*damaged_bases(cfg, families_of(cfg)), *unit_problems(parts, cfg.trainer)]
    if "connector" in parts:
        problems += connector_problems(parts, cfg.connector.name)
    if parent:
        ours, theirs = _shapes(cfg, parts), _shapes(parent, parts)
        for family, handover in cfg.from_parent.items():
            if handover != "new" and ours.get(family) != theirs.get(family):
                problems.append(unlike_parent(cfg, parent, family))
    stride = getattr(parts.get("autoencoder"), "stride", 1)
    if cfg.data.world.size % stride:
        expected = f"a multiple of {stride}, the pixels of a latent cell"
        fix = f"set data.world.size={max(stride, cfg.data.world.size // stride * stride)}"
        problems.append(Problem("data.world.size", cfg.data.world.size, expected, fix))
    problems += head_problems(parts, cfg, world, unseen=VLM_ALONE)
    problems += _resume_problems(cfg, parts)
    most = getattr(parts.get("objective"), "max_inference_steps", None)
    if most is not None and cfg.sampling.num_inference_steps > most:
        key, steps = "sampling.num_inference_steps", cfg.sampling.num_inference_steps
        expected = f"{most} or less with objective={cfg.objective.name}"
        problems.append(Problem(key, steps, expected, f"set {key}={min(30, most)}"))
    if problems:
        raise ConfigError(problems)


def _resume_problems(cfg: DictConfig, parts: Mapping[str, Part]) -> list[Problem]:
    """See that a checkpoint that is named holds what trains."""
    from qk_lightning.training.checkpoint_record import unlike_what_trains

    if (file := file_of(cfg)) is None:
        return []
    named = [(f, n, p) for f, part in parts.items() for n, p in part.named_parameters()]
    return unlike_what_trains(
        file, {f"{f}.{n}": tuple(p.shape) for f, n, p in named if p.requires_grad}
    )


def _check_accelerator(cfg: DictConfig) -> None:
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from lightning.pytorch import Trainer

    from qk_lightning.training.quiet import quiet_lightning

    quiet_lightning()
    name = cfg.trainer.accelerator
    try:
        Trainer(accelerator=name, devices=1, logger=False, enable_checkpointing=False)
    except (MisconfigurationException, ValueError) as error:
        expected = f"an accelerator of this machine ({str(error).splitlines()[0]})"
        problem = Problem("trainer.accelerator", name, expected, "use cpu, or auto")
        raise ConfigError(problem) from error
    _check_devices(name, cfg.trainer.devices)
    _check_offloading(name, cfg.trainer.get("cpu_offload"))


def _check_offloading(accelerator: str, cpu_offload: bool | None) -> None:
    import torch

    if cpu_offload and not torch.cuda.is_available():
        expected = f"false: accelerator={accelerator} means the CPU here, which has all anyway"
        fix = "set trainer.cpu_offload=false"
        raise ConfigError(Problem("trainer.cpu_offload", True, expected, fix))


def _check_devices(accelerator: str, devices: int) -> None:
    import torch

    if devices > 1 and accelerator != "cpu" and torch.cuda.is_available():
        there = torch.cuda.device_count()
        if devices > there:
            expected = f"at most {there}, the GPUs of this machine"
            raise ConfigError(Problem("trainer.devices", devices, expected, f"set {there}"))


def _shapes(cfg: DictConfig, heirs: Mapping[str, Part]) -> dict[str, object]:
    """Return shapes by part and name, as they are once the heirs have taken them over."""
    from qk_lightning.assembly.dry_run import meta_parts

    plain = cfg.copy()
    plain.trainable = {}  # without LoRA
    shapes: dict[str, object] = {}
    for family, part in meta_parts(plain).items():
        own = {name: tuple(p.shape) for name, p in part.state_dict().items()}
        if takes_over := getattr(heirs.get(family), "takes_over", None):
            own = {name: takes_over(name, shape) for name, shape in own.items()}
        shapes[family] = (cfg[family].name, own)
    return shapes


def _check_data(cfg: DictConfig) -> World:
    from qk_lightning.assembly.build import open_world
    from qk_lightning.data.mixture import check_batch_sizes, check_tasks

    world = open_world(cfg.data.world)
    if not schema_of("system", cfg.system.name).attributes.get("uses_tasks", True):
        return world
    trainer = cfg.trainer
    batch, groups = trainer.global_batch_size, cfg.data.groups_per_step
    sizes = (batch, groups, trainer.micro_batch_size, trainer.devices)
    problems = [*check_tasks(world, dict(cfg.data.tasks)), *check_batch_sizes(*sizes)]
    if problems:
        raise ConfigError(problems)
    return world


def check(plans: Sequence[StagePlan], here: bool = True) -> None:
    """Check the runs of a chain in this process.

    Args:
        plans: the chain.
        here: they will run on this machine, so it must have their accelerator.

    Raises:
        ConfigError: with everything that is wrong, a finished parent's missing weights included.
    """
    if problems := problems_of(texts_to_check(plans), here):
        raise ConfigError(problems)
    from qk_lightning.assembly.weights import check_files, read_entries

    for plan in plans:
        parent = plan.parent_folder
        if parent is not None and parent.is_done and not plan.folder.is_done:
            check_files(read_entries(parent), parent.path.parent)
