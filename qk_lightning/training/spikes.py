"""Steps whose loss or gradient norm stands out: kept in spikes.csv with the samples they saw.

A step is a spike where a value is more than k median absolute deviations (MAD) above the median
of the steps before it: value > median + k * MAD, over a running window.
"""

from __future__ import annotations

import csv
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from qk_lightning.config.atomic import write_text
from qk_lightning.config.run_folder import RunFolder
from qk_lightning.training.ranks import Ranks

FILE = "spikes.csv"
HEADER = ["step", "what", "value", "median", "deviations", "task", "indices", "ids"]
METRIC = "train/spike"
LEAST = 10  # steps seen before one can stand out
FLOOR = 0.02  # of the median: where values hardly differ, their MAD says nothing
log = logging.getLogger("qk_lightning")


@dataclass(frozen=True)
class Samples:
    """The samples of one micro-batch on one rank.

    Args:
        task: their task, "" where the system has none.
        indices: global sample indices, as the data order counts them; a tensor until they are
            asked for.
        ids: the world's names of them.
    """

    task: str = ""
    indices: Any = ()
    ids: tuple[str, ...] = ()

    def plain(self) -> Samples:
        """Return it with numbers in place of a tensor, which waits for the device."""
        numbers = self.indices if isinstance(self.indices, tuple) else self.indices.tolist()
        return replace(self, indices=tuple(numbers))


def samples_of(batch: Any) -> Samples:
    """Say which samples a micro-batch holds.

    Args:
        batch: of any system; one without ids and indices gives none.
    """
    index = getattr(batch, "index", None)
    if not isinstance(index, Tensor):
        return Samples()
    return Samples(str(batch.task), index, tuple(map(str, batch.ids)))


@dataclass(frozen=True)
class Spike:
    """A value that stands out.

    Args:
        what: `loss` or `grad_norm`.
        value: of the step.
        median: of the window before it.
        deviations: how many MADs it lies above.
    """

    what: str
    value: float
    median: float
    deviations: float


class SpikeLog(Callback):
    """Look at each step's loss and norm; write what stands out.

    Told by StepGuard. Rows of a resumed run that were measured after its checkpoint are dropped,
    as those of metrics.csv are. The window is part of a checkpoint.

    Args:
        run: the run's folder.
        ranks: the run's processes; the first one writes.
        threshold: MADs above the median; null or 0 for no look.
        window: how many steps are looked back on.
    """

    def __init__(self, run: RunFolder, ranks: Ranks, threshold: float | None, window: int) -> None:
        self.run = run
        self.ranks = ranks
        self.threshold = threshold or 0.0
        self.window = window
        self._seen: dict[str, deque[float]] = {}
        self._largest = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drop the rows of steps that are trained again."""
        file = self.run.path / FILE
        if not self.ranks.is_first or not file.is_file():
            return
        head, *rows = file.read_text(encoding="utf-8").splitlines()
        kept = [row for row in rows if int(row.partition(",")[0]) <= trainer.global_step]
        if kept != rows:
            write_text(file, "\n".join([head, *kept]) + "\n")

    def look(self, step: int, values: Mapping[str, float], samples: Sequence[Samples]) -> None:
        """Compare a step with those before it, then count it among them; all ranks must call it.

        Args:
            step: the optimiser step, from 1.
            values: `loss` and `grad_norm`, the same on all ranks.
            samples: what this rank's micro-batches held.
        """
        if not self.threshold:
            return
        spikes = [found for what, value in values.items() if (found := self._compare(what, value))]
        if spikes:
            told = [
                one for rank in self.ranks.everyone([s.plain() for s in samples]) for one in rank
            ]
            self._largest = max(spike.deviations for spike in spikes)
            if self.ranks.is_first:
                self._write(step, spikes, told)

    def _compare(self, what: str, value: float) -> Spike | None:
        seen = self._seen.setdefault(what, deque(maxlen=self.window))
        found = None
        if len(seen) >= min(LEAST, self.window):
            middle = median(seen)
            mad = max(median(abs(one - middle) for one in seen), FLOOR * abs(middle), 1e-12)
            deviations = (value - middle) / mad
            if deviations > self.threshold:
                found = Spike(what, value, middle, deviations)
        seen.append(value)
        return found

    def _write(self, step: int, spikes: Sequence[Spike], samples: Sequence[Samples]) -> None:
        file = self.run.path / FILE
        tasks = " ".join(dict.fromkeys(one.task for one in samples))
        pairs = sorted(
            (index, name)
            for one in samples
            for index, name in zip(one.indices, one.ids, strict=False)
        )
        indices, ids = (" ".join(str(pair[place]) for pair in pairs) for place in (0, 1))
        is_new = not file.is_file()
        with file.open("a", newline="", encoding="utf-8") as handle:
            writer = csv.writer(handle, lineterminator="\n")
            if is_new:
                writer.writerow(HEADER)
            for spike in spikes:
                numbers = [repr(spike.value), repr(spike.median), f"{spike.deviations:.1f}"]
                writer.writerow([step, spike.what, *numbers, tasks, indices, ids])
                log.warning(
                    "step %d: %s %.4g is %.1f deviations above the median %.4g of the steps "
                    "before it; its samples stand in %s",
                    step, spike.what, spike.value, spike.deviations, spike.median, FILE,
                )  # fmt: skip

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log a spike's height once its step is done, at whatever step `log_every` is."""
        if self._largest and self.ranks.is_first:
            for logger in trainer.loggers:
                logger.log_metrics({METRIC: self._largest}, step=trainer.global_step - 1)
        self._largest = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return the window."""
        return {"seen": {what: list(values) for what, values in self._seen.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the window of a checkpoint."""
        seen = state_dict["seen"].items()
        self._seen = {what: deque(values, maxlen=self.window) for what, values in seen}
