"""The progress bar of a pipeline: one step for each noise level that the head is asked about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn


class StepBar:
    """A bar over the steps of all batches of one call.

    The head is watched from outside, so that a sampler needs no callback: with guidance a step
    asks it several times at the same sigma.

    Args:
        bar: a tqdm bar.
        head: called as head(noisy_latents, sigma, ...).
    """

    def __init__(self, bar: Any, head: nn.Module) -> None:
        self._bar = bar
        self._head = head

    @contextmanager
    def batch(self, steps: int) -> Iterator[None]:
        """Count the steps of one batch.

        Args:
            steps: how many there will be.
        """
        if self._bar.disable:  # reading sigma would wait for the device
            yield
            return
        end, last = self._bar.n + steps, None

        def _watch(_: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> None:
            nonlocal last
            sigma = args[1] if len(args) > 1 else options["sigma"]
            level = float(sigma.flatten()[0])
            if level != last and self._bar.n < end:
                last = level
                self._bar.update()

        handle = self._head.register_forward_pre_hook(_watch, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()
        self._bar.update(end - self._bar.n)


@contextmanager
def step_bar(head: nn.Module, total: int, options: Mapping[str, Any]) -> Iterator[StepBar]:
    """Show a bar while a pipeline draws.

    Args:
        head: the head that is asked at each step.
        total: steps of all batches.
        options: for tqdm.

    Yields:
        The bar.
    """
    from tqdm import tqdm

    with tqdm(total=total, **options) as bar:
        yield StepBar(bar, head)
