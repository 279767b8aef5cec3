"""Every VLM with every connector and every head: built from tiny checkpoints, trained two steps.

A triple either trains, with gradients where they belong, or is refused with a reason by what looks
at every run before it trains (sweeps/preflight.py); anything else is a fault. Not here: the
checkpoints (tiny.py), the table (tables.py).
B samples of 8 x 8 pixels, N pictures.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from qk_lightning.bench.tiny import (
    CONDITION_WIDTH,
    PATCH,
    TEXTS,
    TinyHead,
    make_head,
    make_vlm,
)
from qk_lightning.bench.tiny_vlms import WIDTH as VLM_WIDTH
from qk_lightning.config.errors import ConfigError
from qk_lightning.config.schema import names_of, schema_of

FAMILIES = ("vlm", "connector", "head")
SIDE = 8  # pixels
SMALL = {"num_layers": 2, "num_tokens": 4}  # where a connector has such an option


@dataclass(frozen=True)
class Outcome:
    """What became of one triple.

    Args:
        vlm: its name.
        connector: its name.
        head: its name.
        reached: tensors that learn and got a gradient in one of the two steps.
        learning: tensors that learn.
        refused: why it was refused, before it trained.
        fault: what went wrong though it was not refused.
    """

    vlm: str
    connector: str
    head: str
    reached: int = 0
    learning: int = 0
    refused: str = ""
    fault: str = ""


@dataclass
class Bench:
    """Tiny checkpoints in a folder, each made once, and the triples made of them.

    Args:
        folder: where checkpoints are written.
    """

    folder: Path
    _vlms: dict[str, dict[str, Any] | None] = field(default_factory=dict)
    _heads: dict[tuple[str, int], TinyHead | None] = field(default_factory=dict)

    def try_all(self, triples: Iterable[tuple[str, str, str]]) -> Iterator[Outcome]:
        """Try triples one by one.

        Args:
            triples: names of vlm, connector and head.

        Yields:
            An outcome each.
        """
        for triple in triples:
            yield self.try_one(*triple)

    def try_one(self, vlm: str, connector: str, head: str) -> Outcome:
        """Build a triple and train it for two steps.

        Args:
            vlm: its name.
            connector: its name.
            head: its name.

        Returns:
            What became of it.
        """
        names = (vlm, connector, head)
        values = self.configuration(*names)
        if isinstance(values, str):
            return Outcome(*names, fault=values)
        try:
            system = _build(values)
        except ConfigError as error:
            return Outcome(*names, refused=error.problems[0].expected)
        try:
            return _train(system, names)
        except (ValueError, RuntimeError, TypeError, NotImplementedError) as error:
            said = " ".join(str(error).split())[:200]
            return Outcome(*names, fault=f"built, then {type(error).__name__}: {said}")

    def configuration(self, vlm: str, connector: str, head: str) -> dict[str, Any] | str:
        """Write a triple's configuration.

        Args:
            vlm: its name.
            connector: its name.
            head: its name.

        Returns:
            Nested values, or what is missing.
        """
        bridge = _connector(connector)
        # What hands the states on needs a head that reads them.
        width = CONDITION_WIDTH if bridge["learns"] else VLM_WIDTH
        if vlm not in self._vlms:
            self._vlms[vlm] = make_vlm(vlm, self.folder / vlm)
        if (head, width) not in self._heads:
            self._heads[head, width] = make_head(head, self.folder / f"{head}-{width}", width)
        reader, painter = self._vlms[vlm], self._heads[head, width]
        if reader is None or painter is None:
            return f"no tiny {vlm if reader is None else head}: write one in bench/tiny.py"
        sees = schema_of("vlm", vlm).attributes.get("reads_images", True)
        return _configuration(reader, bridge, painter, sees)


def triples(only: Iterable[str] = ()) -> list[tuple[str, str, str]]:
    """List all triples, by the files of the parts' folders.

    Args:
        only: names of parts; a family of which some are named is cut down to these.

    Returns:
        Names of vlm, connector and head.
    """
    wanted = set(only)
    vlms, connectors, heads = (
        [name for name in names if name in wanted] or names
        for names in (names_of(family) for family in FAMILIES)
    )
    return [(vlm, bridge, head) for vlm in vlms for bridge in connectors for head in heads]


def _configuration(
    vlm: dict[str, Any], bridge: dict[str, Any], head: TinyHead, sees: bool
) -> dict[str, Any]:
    trainable = {"vlm": {"lora": {"rank": 2}}, "queries": "full", "head": "full"}
    if bridge["learns"]:
        trainable["connector"] = "full"
    tasks = {"text_to_image": 1.0, **({"editing": 1.0} if sees else {})}
    world = {"name": "scenes", "num_scenes": 8, "num_val": 8}
    return {
        "name": "bench",
        "stage": "bench",
        "system": {"name": "query_kontext", "low_level": sees, "prompt_dropout": 0.0},
        "vlm": vlm,
        "queries": {"name": "learnable", "num_queries": 2},
        "connector": bridge["options"],
        "head": head.options,
        "autoencoder": {"name": "pixels", "patch": PATCH},
        "objective": head.objective,
        "trainable": trainable,
        "data": {"world": world, "tasks": tasks},
        "trainer": {"global_batch_size": 4, "accelerator": "cpu"},
    }


def _connector(name: str) -> dict[str, Any]:
    """Give a connector's options, small, and say whether it has anything that learns."""
    from qk_lightning.assembly.build import class_of

    known = schema_of("connector", name).options
    options = {key: value for key, value in SMALL.items() if key in known}
    with torch.device("meta"):
        part = class_of("connector", name)(**options, input_size=VLM_WIDTH, output_size=VLM_WIDTH)
    return {"options": {"name": name, **options}, "learns": any(True for _ in part.parameters())}


def _build(values: dict[str, Any]) -> Any:
    """Check a configuration as a run does, and build its system."""
    from qk_lightning.assembly.build import families_of
    from qk_lightning.assembly.weights import starting_entries
    from qk_lightning.config.validate import validate
    from qk_lightning.sweeps.preflight import problems_of
    from qk_lightning.systems.base import build_system

    cfg: DictConfig = validate(values, {})
    if problems := problems_of([(OmegaConf.to_yaml(cfg), "")]):
        raise ConfigError(problems)
    system = build_system(cfg, starting_entries(cfg, families_of(cfg), None))
    system.configure_model()
    system.log = lambda *args, **kwargs: None  # type: ignore[method-assign] # there is no trainer
    return system


def _train(system: Any, names: tuple[str, str, str]) -> Outcome:
    """Take two steps, each on captions and, where the VLM sees, on pictures that are edited."""
    optimizer = system.configure_optimizers()["optimizer"]
    frozen = [p for p in system.parameters() if not p.requires_grad]
    learns = {name: p for name, p in system.named_parameters() if p.requires_grad}
    reached: set[str] = set()
    system.train()
    batches = [_batch("text_to_image", list(TEXTS[:2]), ())]
    if "editing" in system.config.data.tasks:
        batches.append(_batch("editing", list(TEXTS[2:]), ("source",)))
    for _ in range(2):
        optimizer.zero_grad()
        for batch in batches:
            loss = system.training_step(batch, 0)
            if not torch.isfinite(loss):
                return Outcome(*names, fault=f"the loss is {loss.item()}")
            loss.backward()
        reached |= {n for n, p in learns.items() if p.grad is not None and p.grad.any()}
        optimizer.step()
    fault = _misplaced(learns, reached, frozen)
    return Outcome(*names, reached=len(reached), learning=len(learns), fault=fault)


def _misplaced(learns: dict[str, Tensor], reached: set[str], frozen: list[Tensor]) -> str:
    """Say which gradients are not where they belong."""
    if any(p.grad is not None for p in frozen):
        return "a frozen tensor has a gradient"
    for family in sorted({name.partition(".")[0] for name in learns}):
        own = [name for name in learns if name.startswith(f"{family}.")]
        silent = [name for name in own if name not in reached]
        # Of a head some tensors may be silent: those that read the pooled text, which is zero.
        if silent and (family != "head" or len(silent) == len(own)):
            return f"no gradient reaches {', '.join(silent[:3])}"
    return ""


def _batch(task: str, prompts: list[str], roles: tuple[str, ...]) -> Any:
    from qk_lightning.data.sample import Batch

    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 1, 3, SIDE, SIDE, generator=generator) * 2 - 1
    return Batch(
        ids=["0", "1"],
        index=torch.arange(2),
        task=task,
        prompts=prompts,
        images=images if roles else None,
        roles=roles,
        target=-images[:, 0],
    )
