"""Options of the trainer that contradict each other, or the parts they name; no torch.

Not here: what only a built part knows (`assembly/units.py`), and the machine's own limits
(`sweeps/preflight.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from qk_lightning.config.errors import Problem, did_you_mean
from qk_lightning.config.schema import PART_FAMILIES

DTYPES = ("float32", "bfloat16", "float16")


def device_problems(checked: dict[str, Any]) -> list[Problem]:
    """List what is wrong with how a run is to be computed.

    Args:
        checked: the sections and parts of a configuration, defaults filled in; a part that was
            refused is None.
    """
    return [
        *_offloading(checked["trainer"]),
        *_half_precision(checked["trainer"]),
        *_unit_families(checked),
        *_frozen_dtypes(checked),
    ]


def _offloading(trainer: dict[str, Any]) -> Iterator[Problem]:
    if not trainer["cpu_offload"]:
        return
    key = "trainer.cpu_offload"
    if trainer["strategy"] != "fsdp":
        fix = "set trainer.strategy=fsdp, or trainer.cpu_offload=false"
        yield Problem(key, True, "false: only the shards of fsdp are kept on the host", fix)
    if trainer["accelerator"] == "cpu":
        expected = "false with accelerator=cpu, where all is in the host's memory already"
        yield Problem(key, True, expected, "set trainer.cpu_offload=false")


def _half_precision(trainer: dict[str, Any]) -> Iterator[Problem]:
    if trainer["precision"] == "16-mixed" and trainer["strategy"] == "fsdp":
        expected = "bf16-mixed under fsdp: float16 needs its loss scaled, by one scale on all ranks"
        fix = "set trainer.precision=bf16-mixed, or trainer.strategy=ddp"
        yield Problem("trainer.precision", "16-mixed", expected, fix)


def _unit_families(checked: dict[str, Any]) -> Iterator[Problem]:
    """Families that are recomputed or compiled by block."""
    used = [family for family in PART_FAMILIES if checked.get(family)]
    trained = checked.get("trainable") or {}
    for option in ("activation_checkpointing", "compile"):
        key = f"trainer.{option}"
        for family in checked["trainer"][option]:
            if family not in PART_FAMILIES or (used and family not in used):
                yield Problem(key, family, "a part of the system", did_you_mean(family, used))
            elif option == "activation_checkpointing":
                if family == "autoencoder" and family not in trained:
                    expected = "parts that a gradient passes through; a frozen autoencoder has none"
                    yield Problem(key, family, expected, "leave autoencoder out")
                if (checked[family] or {}).get("gradient_checkpointing"):
                    expected = f"one way to recompute: {family}.gradient_checkpointing is on too"
                    fix = f"set {family}.gradient_checkpointing=false"
                    yield Problem(key, family, expected, fix)


def _frozen_dtypes(checked: dict[str, Any]) -> Iterator[Problem]:
    """Dtypes of parts whose weights do not train."""
    used = [family for family in PART_FAMILIES if checked.get(family)]
    for family, dtype in checked["trainer"]["frozen_dtype"].items():
        key = f"trainer.frozen_dtype.{family}"
        if dtype not in DTYPES:
            yield Problem(key, dtype, " | ".join(DTYPES), "for example bfloat16")
        if family not in used:
            yield Problem(key, dtype, "a part of the system", did_you_mean(str(family), used))
        elif "dtype" in (checked[family] or {}):
            expected = f"no value here: {family} has an option of its own"
            yield Problem(key, dtype, expected, f"set {family}.dtype={dtype}")
        elif (checked.get("trainable") or {}).get(family) == "full" and dtype != "float32":
            expected = f"float32: {family} trains, and small steps vanish in half precision"
            fix = f"take it out, or set trainable.{family} to frozen or LoRA"
            yield Problem(key, dtype, expected, fix)
