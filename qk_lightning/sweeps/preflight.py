"""Looking before leaping: mistakes that only show when parts meet, found before any run starts.

Built on the meta device, so no weights are read; a chain's last stage is checked before its
first one trains.
"""

from __future__ import annotations

from collections.abc import Sequence

from omegaconf import DictConfig, OmegaConf

from qk_lightning.config.chain import StagePlan
from qk_lightning.config.errors import ConfigError, Problem
from qk_lightning.config.schema import schema_of

CHECK = "qk_lightning.sweeps.preflight:problems_of"


def texts_to_check(plans: Sequence[StagePlan]) -> list[str]:
    """Return the configurations of runs that will train, each kind once.

    Args:
        plans: the runs.

    Returns:
        YAML texts; seeds are made equal, since no check depends on them.
    """
    texts = []
    for plan in plans:
        if not plan.folder.is_done:
            texts.append(OmegaConf.to_yaml(OmegaConf.merge(plan.cfg, {"seed": 0})))
    return list(dict.fromkeys(texts))


def problems_of(texts: Sequence[str]) -> list[Problem]:
    """Check configurations: parts fit together, the world has the tasks, sizes divide.

    Args:
        texts: YAML of resolved configurations.

    Returns:
        What is wrong, each problem once.
    """
    found: dict[str, Problem] = {}
    for text in texts:
        cfg = OmegaConf.create(text)
        assert isinstance(cfg, DictConfig)
        for check in (_check_parts, _check_data):
            try:
                check(cfg)
            except ConfigError as error:
                found |= {str(problem): problem for problem in error.problems}
    return list(found.values())


def _check_parts(cfg: DictConfig) -> None:
    from qk_lightning.assembly.dry_run import dry_run

    dry_run(cfg)


def _check_data(cfg: DictConfig) -> None:
    from qk_lightning.assembly.build import open_world
    from qk_lightning.data.mixture import check_batch_sizes, check_tasks

    world = open_world(cfg.data.world)
    if not schema_of("system", cfg.system.name).attributes.get("uses_tasks", True):
        return
    trainer = cfg.trainer
    sizes = (trainer.global_batch_size, cfg.data.groups_per_step, trainer.micro_batch_size)
    problems = [*check_tasks(world, dict(cfg.data.tasks)), *check_batch_sizes(*sizes)]
    if problems:
        raise ConfigError(problems)


def check(plans: Sequence[StagePlan]) -> None:
    """Check the runs of a chain in this process.

    Args:
        plans: the chain.

    Raises:
        ConfigError: with everything that is wrong.
    """
    if problems := problems_of(texts_to_check(plans)):
        raise ConfigError(problems)
