"""Which ways of taking a preset's step are timed side by side: a name and overrides each. No torch.

Not here: how they are timed (side_by_side.py, timed_step.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from omegaconf import DictConfig, OmegaConf

from qk_lightning.bench.side_by_side import Entrant
from qk_lightning.config.compose import compose
from qk_lightning.config.errors import ConfigError, Problem, did_you_mean
from qk_lightning.config.sections import Trainer, option_names

STEP = "qk_lightning.bench.timed_step:run"
AS_IT_IS = "as it is"
ENDLESS = 1_000_000


@dataclass(frozen=True)
class Variant:
    """One way of taking a step.

    Args:
        name: for people.
        overrides: beside the preset's own.
        joint: one forward of prompt and queries, though the VLM is frozen.
        by_default: timed where nobody chooses.
    """

    name: str
    overrides: tuple[str, ...] = ()
    joint: bool = False
    by_default: bool = True

    @property
    def needs(self) -> tuple[str, ...]:
        """The options of the trainer that it sets."""
        keys = (text.partition("=")[0] for text in self.overrides)
        return tuple(key.removeprefix("trainer.") for key in keys if key.startswith("trainer."))


KNOWN = {
    "joint": Variant("no prefix split", joint=True),
    "compile": Variant("compiled head", ("trainer.compile=[head]",)),
    "checkpointing": Variant(
        "head's activations checkpointed", ("trainer.activation_checkpointing=[head]",)
    ),
    "ddp": Variant("2 ranks, ddp", ("trainer.devices=2", "trainer.strategy=ddp")),
    "fsdp": Variant("2 ranks, fsdp", ("trainer.devices=2", "trainer.strategy=fsdp")),
    "bf16": Variant("bf16-mixed", ("trainer.precision=bf16-mixed",), by_default=False),
    "unmeasured": Variant("perf metrics off", ("trainer.perf=false",), by_default=False),
}


def chosen(names: Sequence[str], cfg: DictConfig, on_gpu: bool) -> list[Variant]:
    """Return the variants to time, without the preset as it is.

    Args:
        names: keys of `KNOWN`, or overrides such as `trainer.precision=bf16-true`, several
            separated by blanks; none for those that fit the preset and the machine.
        cfg: the preset, resolved.
        on_gpu: it trains on GPUs: bf16 is worth trying.

    Returns:
        Variants in order.

    Raises:
        ConfigError: a name is neither.
    """
    if names:
        return [_named(name) for name in names]
    options = option_names(Trainer)
    found = [v for v in KNOWN.values() if v.by_default or (on_gpu and v is KNOWN["bf16"])]
    found = [variant for variant in found if set(variant.needs) <= set(options)]
    return [variant for variant in found if not variant.joint or splits(cfg)]


def _named(name: str) -> Variant:
    if "=" in name:
        return Variant(name, tuple(name.split()))
    if name not in KNOWN:
        fix = did_you_mean(name, KNOWN)
        expected = "a variant's name, or overrides such as trainer.precision=bf16-mixed"
        raise ConfigError(Problem("--variants", name, expected, fix))
    return KNOWN[name]


def splits(cfg: DictConfig) -> bool:
    """Tell whether a configuration computes a prefix without gradient.

    Args:
        cfg: resolved.
    """
    return cfg.system.name == "query_kontext" and "vlm" not in cfg.trainable


def configuration(
    preset: str, overrides: Sequence[str], steps: int, text_length: int | None = None
) -> DictConfig:
    """Compose a variant as it is timed: by itself, without parent, validation and tracking.

    Args:
        preset: a preset's name or a file.
        overrides: of the command line and of the variant.
        steps: optimiser steps a turn.
        text_length: tokens of a prompt, where they are set.

    Returns:
        The configuration.

    Raises:
        ConfigError: with everything that is wrong.
    """
    longer = [] if text_length is None else [f"vlm.max_prompt_tokens={text_length}"]
    cfg = compose(preset, [*overrides, *longer]).cfg
    apart = {
        "parent": None,
        "tracking": {"name": "none"},
        "validation": {"every": 0},
        "trainer": {"max_steps": ENDLESS, "checkpoint_every": ENDLESS, "log_every": steps},
    }
    changed = OmegaConf.merge(cfg, apart)
    changed["from_parent"] = {}
    assert isinstance(changed, DictConfig)
    return changed


def entrants_of(
    preset: str,
    overrides: Sequence[str],
    names: Sequence[str],
    steps: int,
    text_lengths: Sequence[int] = (),
) -> list[Entrant]:
    """Plan what is timed: the preset as it is and its variants, once a text length.

    Args:
        preset: a preset's name or a file.
        overrides: of the command line, for all variants.
        names: as for `chosen`.
        steps: optimiser steps a turn.
        text_lengths: tokens of every prompt; none for the world's own prompts.

    Returns:
        Entrants, those of a text length in one group.

    Raises:
        ConfigError: of any variant; or one splits no prefix.
    """
    cfg = compose(preset, overrides).cfg
    on_gpu = cfg.trainer.accelerator not in ("cpu", "auto")
    variants = [Variant(AS_IT_IS), *chosen(names, cfg, on_gpu)]
    found = []
    for length in text_lengths or (None,):
        for variant in variants:
            if variant.joint and not splits(cfg):
                expected = "a preset with a frozen VLM: while it trains there is no prefix to split"
                raise ConfigError(Problem("--variants", "joint", expected, "leave it out"))
            own = configuration(preset, [*overrides, *variant.overrides], steps, length)
            arguments = (OmegaConf.to_yaml(own), steps, variant.joint, length)
            group = "" if length is None else f"{length} text tokens"
            found.append(Entrant(variant.name, STEP, arguments, own.trainer.devices, group))
    return found
