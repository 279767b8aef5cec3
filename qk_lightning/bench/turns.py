"""The side of `qk bench train` that is timed: a process that works when it is its turn.

Not here: whose turn it is (side_by_side.py), and what is done in it (timed_step.py, timed_vlm.py).
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch

from qk_lightning.bench.side_by_side import GO
from qk_lightning.training.clock import peak_memory

Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Turn:
    """The beginning of a turn: the time of day, and the processor's time of this process."""

    begun: float = field(default_factory=time.perf_counter)
    worked: float = field(default_factory=time.process_time)


class Turns:
    """Waits for turns and tells what they took.

    Args:
        bell: a pipe by name, a byte a turn.
        report: takes messages to the process that rings.
    """

    def __init__(self, bell: str, report: Report) -> None:
        self._report = report
        self._bell: BinaryIO = open(bell, "rb", buffering=0)  # noqa: SIM115 - open to the end
        self._last: dict[str, Any] = {}

    def wait(self) -> bool:
        """Tell what the last turn took, and wait for the next; False: there is none."""
        self._report({"ready": True, **self._last})
        return self._bell.read(1) == GO

    def took(self, turn: Turn, steps: int, details: Mapping[str, float]) -> None:
        """Keep what a turn took, now that it is over.

        Args:
            turn: made when it began.
            steps: how many it had.
            details: more about it, by name.
        """
        seconds = (time.perf_counter() - turn.begun) / steps
        worked = (time.process_time() - turn.worked) / steps
        self._last = {"seconds": seconds, "details": {**details, "processor": worked}}

    def end(self, held: dict[str, int]) -> None:
        """Tell the memory, last of all.

        Args:
            held: bytes by what they are.
        """
        self._report({"memory": held})


class Memory:
    """The most memory that was held since its making, over what was held then.

    On a GPU what tensors take; else resident pages of this process, whose high-water mark Linux
    lets be set back.

    Args:
        device: where the work is done.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self._before = torch.cuda.memory_allocated(device)
            return
        gc.collect()
        if sys.platform == "linux":
            with contextlib.suppress(AttributeError):  # another C library
                ctypes.CDLL(None).malloc_trim(0)  # else what was freed before is used unseen
            Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
        self._before = _resident("VmRSS", device)

    def grown(self) -> int:
        """Return the bytes."""
        most = peak_memory(self.device)
        if self.device.type != "cuda":
            most = _resident("VmHWM", self.device)
        return max(0, most - self._before)


def _resident(name: str, device: torch.device) -> int:
    if sys.platform != "linux":
        return peak_memory(device)
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {name}")


def wait_for_device(device: torch.device) -> None:
    """Let a GPU finish what it was given, so that a host's clock can be read.

    Args:
        device: where the work is done.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
