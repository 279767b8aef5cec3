"""What a finished run is worth: its validation loss, and what it draws or answers."""

from __future__ import annotations

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger

from qk_lightning.config.run_folder import RunFolder
from qk_lightning.data.module import DataModule
from qk_lightning.sweeps.trainer import ctrl_c
from qk_lightning.systems.base import System
from qk_lightning.training.callbacks import check_finite

VLM_SHARE = 4  # questions of each world at the end of a run, in units of validation.num_samples


def score(
    run: RunFolder, system: System, trainer: Trainer, data: DataModule, loggers: list[Logger]
) -> None:
    """Measure the finished weights: validation loss, then what the system draws.

    Args:
        run: the run's folder, which keeps pictures and answers.
        system: in one piece, with the weights to score.
        trainer: the one that trained it; names the device.
        data: the data that it trained on.
        loggers: where scores go.
    """
    from qk_lightning.evaluation.stage_scores import score_stage
    from qk_lightning.evaluation.vlm_answers import score_vlm
    from qk_lightning.systems.query_kontext import QueryKontext
    from qk_lightning.systems.understanding import Understanding

    options = system.config.trainer
    scores: dict[str, float] = {}
    if system.config.validation.num_samples:
        validator = Trainer(
            accelerator=options.accelerator,
            devices=1,
            precision=options.precision,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
        )
        with ctrl_c():
            (metrics,) = validator.validate(system, data.val_dataloader(), verbose=False)
        scores = {name: float(value) for name, value in metrics.items()}
        check_finite(scores["val/loss"], "the validation loss")
    if isinstance(system, QueryKontext) and system.config.validation.num_images:
        system.to(trainer.strategy.root_device)
        system.merge_adapters()
        scores |= score_stage(system, data, run)
    if isinstance(system, Understanding):
        scores |= score_vlm(system, data.world, VLM_SHARE * system.config.validation.num_samples)
    for logger in loggers:
        logger.log_metrics(scores, options.max_steps - 1)  # as Lightning counts, from 0
        logger.finalize("success")
