"""Ranks as their environment has them: what torchrun or SLURM sets, who lost whom. No torch."""

from __future__ import annotations

import os

RUN_ID = "qk"  # of ranks that a command of ours started; torchrun's own are other
# What a rank says that lost another: gloo, the store, NCCL.
LOST = ("Connection closed", "Connection reset", "Broken pipe", "DistNetworkError", "NCCL", "Lost:")


def started_rank(devices: int) -> int | None:
    """Return this process's rank if it was started with others, by torchrun or SLURM.

    Args:
        devices: `trainer.devices`; SLURM's tasks are ranks only where there are so many a node.

    Returns:
        The rank, or None for a process on its own.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return int(os.environ["RANK"])
    tasks, nodes = (os.environ.get(f"SLURM_{name}", "") for name in ("NTASKS", "NNODES"))
    is_step = "SLURM_STEP_ID" in os.environ and "SLURM_PROCID" in os.environ
    if devices > 1 and is_step and tasks and int(tasks) == devices * int(nodes or 1):
        return int(os.environ["SLURM_PROCID"])
    return None


def rank_variables(rank: int, count: int, port: int) -> dict[str, str]:
    """Return what torchrun sets for a process on one machine.

    Args:
        rank: the process, from 0.
        count: number of processes.
        port: a free port of this machine.
    """
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "GROUP_RANK": "0",
        "TORCHELASTIC_RUN_ID": RUN_ID,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def is_of_another(error: str) -> bool:
    """Tell whether an error says no more than that another rank is gone.

    Args:
        error: its text.
    """
    return any(word in error for word in LOST)
