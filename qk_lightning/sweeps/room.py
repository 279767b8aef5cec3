"""What a sweep's pool holds: slots, GPUs and cores here, or what another engine takes.

local: processes of this machine. ray, submitit: those of others that share the folder of runs.
Nothing is opened here; a plan says it too.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import OmegaConf

from qk_lightning.config.errors import ConfigError, Problem, did_you_mean
from qk_lightning.sweeps.devices import DEFAULT_SLOTS, Needs, gpus_of, visible_cores, visible_gpus
from qk_lightning.sweeps.file import SweepFile
from qk_lightning.sweeps.graph import PlannedRun

EXECUTORS = ("local", "ray", "submitit")


@dataclass(frozen=True)
class Room:
    """What a sweep's pool holds.

    Args:
        name: the engine.
        slots: runs at the same time; 0: as many as the engine takes.
        gpus: GPUs to give out, as CUDA_VISIBLE_DEVICES names them.
        cores: cores to give out.
    """

    name: str
    slots: int
    gpus: tuple[str, ...] = ()
    cores: tuple[int, ...] = ()


def room_of(file: SweepFile, runs: Sequence[PlannedRun]) -> Room:
    """Return what a sweep's pool holds.

    Args:
        file: the sweep.
        runs: those that will be trained.
    """
    name = str(file.executor.get("name", "local"))
    if name != "local":
        return Room(name, file.slots)
    gpus, cores = visible_gpus(), visible_cores() if file.cores else []
    asked = [_needs(file, run, bool(gpus)) for run in runs]
    most = max((needs.gpus for needs in asked), default=0)
    slots = [file.slots] if file.slots else []
    if not slots and most:
        slots.append(max(1, len(gpus) // most))
    if not slots and file.cores:
        slots.append(max(1, len(cores) // file.cores))
    return Room(name, (slots or [DEFAULT_SLOTS])[0], tuple(gpus) if most else (), tuple(cores))


def _needs(file: SweepFile, run: PlannedRun, are_there: bool) -> Needs:
    is_elsewhere = file.executor.get("name", "local") != "local"
    said = run.plan.cfg.trainer.get("accelerator") in ("gpu", "cuda")  # `auto` is settled there
    return Needs(gpus_of(run.plan.cfg, file.gpus, are_there or (is_elsewhere and said)), file.cores)


def needs_of(file: SweepFile, room: Room) -> Callable[[PlannedRun], Needs]:
    """Return what says how much a run of a sweep occupies.

    Args:
        file: the sweep.
        room: its pool.
    """
    return lambda run: _needs(file, run, bool(room.gpus))


def describe_room(file: SweepFile, runs: Sequence[PlannedRun]) -> str:
    """Say in a line what a sweep's pool is.

    Args:
        file: the sweep.
        runs: those that will be trained.
    """
    room = room_of(file, runs)
    needs = [needs_of(file, room)(run) for run in runs]
    settings = [f"{key}={value}" for key, value in file.executor.items() if key != "name"]
    slots = f"{room.slots} at a time" if room.slots else f"as many as {room.name} takes"
    words = [" ".join([room.name, *settings]), slots]
    gpus = sorted({item.gpus for item in needs if item.gpus})
    if gpus:
        of = f" of {len(room.gpus)}" if room.gpus else ""
        words.append(f"{' or '.join(map(str, gpus))}{of} GPUs a run")
    if file.cores:
        of = f" of {len(room.cores)}" if room.cores else ""
        words.append(f"{file.cores}{of} cores a run")
    words.append(f"{file.threads} {'thread' if file.threads == 1 else 'threads'} a run")
    return f"pool: {', '.join(words)}"


def check_room(file: SweepFile, runs: Sequence[PlannedRun]) -> None:
    """See that this machine's pool can hold each run, or that the engine is installed.

    Args:
        file: the sweep.
        runs: those that will be trained.

    Raises:
        ConfigError: it cannot, or is not.
    """
    room = room_of(file, runs)
    if room.name != "local":
        _check_installed(room.name)
        return
    needs = [needs_of(file, room)(run) for run in runs]
    problems = []
    gpus, cores = max((item.gpus for item in needs), default=0), len(room.cores)
    if gpus > len(room.gpus):
        expected = f"at most {len(room.gpus)}, the GPUs that this machine shows"
        fix = "ask for less (`gpus`, `trainer.devices`), or gpus: 0 to give none out"
        problems.append(Problem("gpus", gpus, expected, fix))
    if file.cores > cores:
        expected = f"at most {cores}, the cores that this process may use"
        problems.append(Problem("cores", file.cores, expected, f"set cores: {cores}"))
    if problems:
        raise ConfigError(problems)


def _check_installed(name: str) -> None:
    if importlib.util.find_spec(name) is None:
        expected = f"a package that is installed; {name} is an extra"
        fix = f"pip install {name}   (or: pip install 'qk_lightning[{name}]')"
        raise ConfigError(Problem("--executor", name, expected, fix))


def executor_problems(executor: Any) -> list[Problem]:
    """List what is wrong with an engine's name and settings.

    Args:
        executor: what stands under `executor:`, or was given on the command line.
    """
    fix = "write `executor: {name: submitit, partition: gpu}`"
    if not isinstance(executor, Mapping):
        return [Problem("executor", executor, "a mapping with a name", fix)]
    if not executor:
        return []
    name = executor.get("name")
    if name not in EXECUTORS:
        expected = " | ".join(EXECUTORS)
        return [Problem("executor.name", name, expected, did_you_mean(str(name), EXECUTORS))]
    known = {"local": [], "ray": ["address"]}.get(str(name))
    unknown = [key for key in executor if known is not None and key not in ["name", *known]]
    return [
        Problem(f"executor.{key}", executor[key], f"a setting of {name}",
                did_you_mean(key, known or []))
        for key in unknown
    ]  # fmt: skip


def executor_of(name: str, settings: Sequence[str]) -> dict[str, Any]:
    """Return an engine's settings from the command line.

    Args:
        name: the engine.
        settings: `key=value` texts.
    """
    return {"name": name, **OmegaConf.to_container(OmegaConf.from_dotlist(list(settings)))}  # type: ignore[dict-item]
