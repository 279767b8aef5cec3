"""Trying a connector before anything trains: one call on tensors without storage.

B batch, L tokens, N tokens of the condition (L, unless the connector has an `output_mask`),
D width of the VLM, Dc width of the condition.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from qk_lightning.assembly.build import wired_sizes
from qk_lightning.config.errors import Problem
from qk_lightning.parts.base import Part
from qk_lightning.parts.connectors.masks import condition_mask

BATCH, LENGTH = 2, 5
CONTRACT = (
    "write `def forward(self, states, mask)`: states [B, L, input_size] and mask [B, L] bool to "
    "[B, L, output_size]; parts/connectors/mlp.py is an example. One that changes the number of "
    "tokens also has `def output_mask(self, mask)`, as parts/connectors/resampler.py"
)
# What an error says that comes of the trial, not of the connector: it may run on a real device.
_OF_THE_TRIAL = re.compile(r"\b(meta|device|cuda|triton|internal assert)\b", re.IGNORECASE)


def connector_problems(parts: Mapping[str, Part], name: str) -> list[Problem]:
    """Call a connector once as a system does.

    Args:
        parts: parts by family, the connector among them, on the meta device.
        name: the connector's name in YAML.

    Returns:
        What is wrong with it; nothing where nobody reads it, or where it cannot run without
        numbers (shapes that depend on them, kernels of one device).
    """
    if not {"vlm", "head"} <= parts.keys():
        return []
    connector, sizes = parts["connector"], wired_sizes(parts)
    if type(connector).forward is Part.forward:
        return [_problem(name, connector, "a forward", "has none")]
    with torch.device("meta"), torch.no_grad():
        states = torch.ones(BATCH, LENGTH, sizes["input_size"])
        mask = torch.ones(BATCH, LENGTH, dtype=torch.bool)
        signature = inspect.signature(connector.forward)
        try:
            signature.bind(states, mask)
        except TypeError:
            expected = "a forward of states and mask"
            return [_problem(name, connector, expected, f"has forward{signature}")]
        try:
            carried: object = connector(states, mask)
            mask = condition_mask(connector, mask)
        except NotImplementedError:
            return []
        except Exception as error:  # whatever somebody's own code raises
            return _failed(name, connector, error, tuple(states.shape))
    return _misshapen(name, connector, carried, mask, sizes["output_size"])


def _failed(name: str, part: Part, error: Exception, shape: tuple[int, ...]) -> list[Problem]:
    lines = str(error).splitlines() or [""]
    if _OF_THE_TRIAL.search(str(error)):
        return []
    expected = f"a forward that takes states of {list(shape)}"
    return [_problem(name, part, expected, f"raises {type(error).__name__}: {lines[0]}")]


def _misshapen(
    name: str, part: Part, carried: object, mask: object, output_size: int
) -> list[Problem]:
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape[:-1] != (BATCH,):
        found = f"has one that gives {getattr(mask, 'dtype', type(mask).__name__)}"
        return [_problem(name, part, f"an output_mask that gives [{BATCH}, N] bool", found)]
    wanted = (BATCH, mask.shape[1], output_size)
    expected = f"a condition of {list(wanted)} (the last is output_size, what the head reads)"
    if not isinstance(carried, Tensor):
        return [_problem(name, part, expected, f"returns {type(carried).__name__}")]
    if tuple(carried.shape) != wanted:
        return [_problem(name, part, expected, f"returns {list(carried.shape)}")]
    return []


def _problem(name: str, part: Part, expected: str, found: str) -> Problem:
    text = f"{expected}; {type(part).__name__} {found}"
    return Problem("connector", name, text, CONTRACT)
