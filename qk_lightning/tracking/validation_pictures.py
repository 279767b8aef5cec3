"""Pictures at each validation of a run that trains: one labelled grid a time.

Imported only where a run trains: it imports Lightning. B pictures of 3 x H x W in [-1, 1].
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image
from torch import Tensor

from qk_lightning.config.atomic import write_json
from qk_lightning.config.run_folder import RunFolder
from qk_lightning.data.collate import to_pixels
from qk_lightning.data.module import DataModule
from qk_lightning.data.sample import Batch
from qk_lightning.tracking.sample_grid import FINAL, PROMPTS, write_sample_grid


@runtime_checkable
class ShowsPictures(Protocol):
    """A logger that shows pictures while a run trains."""

    def log_picture(self, picture: Path) -> None:
        """Show a picture.

        Args:
            picture: a file of the run folder.
        """


class ValidationPictures(Callback):
    """Draw `validation.num_grid` validation samples at each validation, with the averaged weights.

    The same samples and the same noise each time, so that the grids `samples/step_<n>.png` show
    how a run learns. A system whose `predict_step` draws nothing has none.

    Args:
        run: the run's folder.
    """

    def __init__(self, run: RunFolder) -> None:
        self.run = run

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw and show; before the training weights take the average's place again."""
        system: Any = pl_module
        is_drawing = type(pl_module).predict_step is not LightningModule.predict_step
        count = int(system.config.validation.num_grid)
        data: object = getattr(trainer, "datamodule", None)
        if not (is_drawing and count and isinstance(data, DataModule)):
            return
        if not trainer.is_global_zero:
            for batch in batches_to_draw(data, count):  # a sharded model draws with all its ranks
                system.predict_step(batch.to(system.device), 0)
            return
        path = self.run.samples / f"step_{trainer.global_step:06d}.png"
        with tempfile.TemporaryDirectory() as temporary:
            samples = Path(temporary)
            listed: list[dict[str, Any]] = []
            for batch in batches_to_draw(data, count):
                pictures = system.predict_step(batch.to(system.device), 0)
                listed += _keep(batch, pictures, samples / FINAL)
            write_json(samples / FINAL / PROMPTS, listed)
            write_sample_grid(path, {f"step {trainer.global_step}": samples})
        for logger in trainer.loggers:
            if isinstance(logger, ShowsPictures):
                logger.log_picture(path)


def batches_to_draw(data: DataModule, count: int) -> list[Batch]:
    """Choose validation samples: so many in all, spread over the trained tasks.

    Args:
        data: the run's data.
        count: number of samples.

    Returns:
        Their batches, task by task.
    """
    tasks = list(data.tasks)[:count]
    chosen: list[Batch] = []
    for place, task in enumerate(tasks):
        wanted = count // len(tasks) + (place < count % len(tasks))
        chosen += data.val_batches(task, wanted, wanted)
    return chosen


def _keep(batch: Batch, pictures: Tensor, folder: Path) -> list[dict[str, Any]]:
    """Write drawn pictures, targets and inputs as the grid reads them."""
    folder.mkdir(exist_ok=True)
    listed = []
    for place, sample in enumerate(batch.ids):
        name = f"{batch.task}_{sample}".replace("/", "_")
        _save(pictures[place], folder / f"{name}.png")
        _save(batch.target[place], folder / f"target_{name}.png")
        for number, image in enumerate([] if batch.images is None else batch.images[place]):
            _save(image, folder / f"input{number}_{name}.png")
        prompt, roles = batch.prompts[place], list(batch.roles)
        listed.append({"id": name, "task": batch.task, "prompt": prompt, "roles": roles})
    return listed


def _save(image: Tensor, path: Path) -> None:
    Image.fromarray(to_pixels(image).transpose(1, 2, 0)).save(path)
