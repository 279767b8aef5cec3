"""Seconds of named spans on a device, and the device's peak memory.

On a GPU a span lies between two events in the stream, read one collection later: by then the
device is past them, so that no step waits for it. On a CPU a span is the host's own time.
"""

from __future__ import annotations

import resource
import sys
import time
from collections import defaultdict
from typing import Any

import torch

Mark = Any  # a host's second, or an event in the stream


class Clock:
    """Adds up spans by name.

    Args:
        device: where the work is done.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._on_gpu = device.type == "cuda"
        self._seconds: dict[str, float] = defaultdict(float)
        self._spans: list[tuple[str, Mark, Mark]] = []
        self._older: list[tuple[str, Mark, Mark]] = []

    def mark(self) -> Mark:
        """Return this moment; on a GPU that of the stream, without waiting for it."""
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def add(self, name: str, begun: Mark) -> None:
        """End a span now.

        Args:
            name: what was done.
            begun: from `mark`.
        """
        if self._on_gpu:
            self._spans.append((name, begun, self.mark()))
        else:
            self._seconds[name] += time.perf_counter() - begun

    def add_host(self, name: str, begun: float) -> None:
        """End a span of the host, whatever the device.

        Args:
            name: what was done.
            begun: from `time.perf_counter`.
        """
        self._seconds[name] += time.perf_counter() - begun

    def collect(self) -> dict[str, float]:
        """Return the seconds by name, and begin anew.

        Returns:
            Those since the last collection; on a GPU, those of the device between the last two.
        """
        if self._older:
            self._older[-1][2].synchronize()  # long past
        for name, begun, ended in self._older:
            self._seconds[name] += begun.elapsed_time(ended) / 1000
        self._older, self._spans = self._spans, []
        found, self._seconds = dict(self._seconds), defaultdict(float)
        return found


def peak_memory(device: torch.device) -> int:
    """Return the most memory in bytes that was held so far.

    Args:
        device: a GPU: what tensors took there; a CPU: the resident memory of this process.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
