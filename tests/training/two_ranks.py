"""Two ranks in forked processes, with what torchrun would set in their environment."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import socket
import time
import traceback
from collections.abc import Callable
from typing import Any

import torch
from omegaconf import OmegaConf

from qk_lightning.config.rank_variables import rank_variables
from qk_lightning.config.run_folder import RunFolder
from qk_lightning.sweeps.launch import train_rank

CONTEXT = multiprocessing.get_context("fork")
PATIENCE = 120.0


def _work(function: Callable[..., Any], arguments: tuple[Any, ...], results: Any) -> None:
    torch.set_num_threads(1)
    try:
        results.put((int(os.environ["RANK"]), "", function(*arguments)))
    except BaseException:
        results.put((int(os.environ["RANK"]), traceback.format_exc(), None))
        raise


def on_ranks(function: Callable[..., Any], *arguments: Any, count: int = 2) -> list[Any]:
    """Call a function on ranks and return what each returned; the first error is raised."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    results, kept = CONTEXT.SimpleQueue(), os.environ.copy()
    processes = []
    try:
        for rank in range(count):
            os.environ.update(rank_variables(rank, count, port))
            process = CONTEXT.Process(target=_work, args=(function, arguments, results))
            process.start()
            processes.append(process)
    finally:
        os.environ.clear()
        os.environ.update(kept)
    found: dict[int, Any] = {}
    deadline = time.monotonic() + PATIENCE
    try:
        while len(found) < count:
            assert time.monotonic() < deadline, f"ranks {set(range(count)) - set(found)} hang"
            if results.empty():
                time.sleep(0.02)
                continue
            rank, error, value = results.get()
            if error:
                raise RuntimeError(f"rank {rank}: {error}")
            found[rank] = value
        for process in processes:
            process.join(10)
    finally:
        for process in processes:
            process.kill()
    return [found[rank] for rank in range(count)]


def copy_as(run: RunFolder, strategy: str, devices: int, **trainer: Any) -> RunFolder:
    """Return a folder beside a run's, with its configuration but for the devices, not trained."""
    name, _, identity = run.name.rpartition("-")
    number = len(list(run.path.parent.glob(f"{name}*")))
    copy = RunFolder(run.path.with_name(f"{name}_{strategy}{number}-{identity}"))
    copy.path.mkdir()
    if (run.path / "parent.json").is_file():
        shutil.copy(run.path / "parent.json", copy.path)
    cfg = run.config
    changes = {"trainer": {"strategy": strategy, "devices": devices, **trainer}}
    OmegaConf.save(OmegaConf.merge(cfg, changes), copy.path / "config.yaml")
    return copy


def train_on(run: RunFolder, count: int = 2) -> None:
    """Train a folder on ranks to its end."""
    assert run.config.trainer.devices == count
    on_ranks(_train, str(run.path), count=count)


def _train(folder: str) -> None:
    rank = int(os.environ["RANK"])
    train_rank(folder, {"RANK": str(rank)}, 0.0)


def losses(run: RunFolder, first: int = 0) -> list[float]:
    """Return the training losses of the steps after `first`, in order."""
    rows = [row for row in run.metrics() if row["metric"] == "train/loss"]
    return [row["value"] for row in rows if row["step"] > first]
