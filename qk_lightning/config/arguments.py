"""Checks of what a caller passes: the command line and the Python functions share them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path

from qk_lightning.config.errors import ConfigError, Problem

SEED_BITS = 62  # of an evaluation: the seeds of an item's further pictures follow it


def check_text(key: str, value: object, example: str = "", may_be_empty: bool = False) -> None:
    """See that an argument is a text.

    Args:
        key: the argument's name.
        value: what was passed.
        example: what would have been right, for the fix.
        may_be_empty: "" will do too.

    Raises:
        ConfigError: it is none.
    """
    if not isinstance(value, str) or not (value or may_be_empty):
        raise ConfigError(Problem(key, repr(value), "a text", f"for example {example!r}"))


def check_preset(value: object) -> None:
    """See that an argument can name a preset.

    Args:
        value: what was passed.

    Raises:
        ConfigError: it cannot.
    """
    if not isinstance(value, Path):
        check_text("preset", value, "laptop/stage1")


def check_overrides(value: object) -> list[str]:
    """Return overrides as a list.

    Args:
        value: what was passed.

    Raises:
        ConfigError: it is no list of texts.
    """
    several = isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping)
    texts = list(value) if several and isinstance(value, Iterable) else [None]
    if not all(isinstance(text, str) for text in texts):
        fix = 'write ["seed=1", "connector=enc_proj"]'
        raise ConfigError(Problem("overrides", repr(value), "a list of key=value texts", fix))
    return [str(text) for text in texts]


def check_once(overrides: Iterable[str]) -> None:
    """See that no key is set twice on one line: which of the two was meant?

    Args:
        overrides: `key=value` texts as typed; a short key is the same as its full one.

    Raises:
        ConfigError: with those that are.
    """
    from qk_lightning.config.layers import full_key

    given: dict[str, list[str]] = {}
    for text in overrides:
        key = text.partition("=")[0].strip()
        stage, _, rest = key.partition(".")
        is_prefixed = bool(rest) and (stage == "all" or stage.startswith("stage"))
        full = f"{stage}.{full_key(rest)}" if is_prefixed else full_key(key)
        given.setdefault(full, []).append(text)
    problems = [
        Problem(key, " ".join(texts), "one value", "take one of them out")
        for key, texts in given.items()
        if len(texts) > 1
    ]
    if problems:
        raise ConfigError(problems)


def check_counts(optional: Sequence[str] = (), /, **given: object) -> None:
    """See that arguments are whole numbers of 1 or more.

    Args:
        optional: names of those that may be None.
        **given: value by the argument's name; or by the flag.

    Raises:
        ConfigError: with those that are not.
    """
    problems = [
        Problem(key, value, "1 or more", "for example 1")
        if _whole(value)
        else Problem(key, value, "a whole number, 1 or more", "for example 1")
        for key, value in given.items()
        if not (_whole(value) and value >= 1)  # type: ignore[operator]
        and not (value is None and key in optional)
    ]
    if problems:
        raise ConfigError(problems)


def check_numbers(**given: object) -> None:
    """See that arguments are finite numbers; None is left to the function.

    Args:
        **given: value by the argument's name.

    Raises:
        ConfigError: with those that are not.
    """
    problems = [
        Problem(key, value, "a finite number", "for example 1.0")
        for key, value in given.items()
        if value is not None
        and not (isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value))
    ]
    if problems:
        raise ConfigError(problems)


def check_seed(key: str, value: object, bits: int = 63) -> None:
    """See that an argument can be a seed.

    Args:
        key: the argument's name, or the flag's.
        value: what was passed.
        bits: it is below 2^bits.

    Raises:
        ConfigError: it cannot.
    """
    if not _whole(value) or not 0 <= value < 2**bits:  # type: ignore[operator]
        raise ConfigError(Problem(key, value, f"0 to 2^{bits} - 1", "choose another"))


def check_drawing(prompt: object, num_images: object, seed: object) -> None:
    """See that it is clear what to draw, and how often.

    Args:
        prompt: the caption or instruction.
        num_images: how many pictures.
        seed: of the noise.

    Raises:
        ConfigError: it is not.
    """
    check_text("prompt", prompt, "a person with red hair", may_be_empty=True)
    check_counts(num_images=num_images)
    check_seed("seed", seed)


def _whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)
