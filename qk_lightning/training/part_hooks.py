"""Following calls into parts, whichever way they enter, sharded and compiled ones too."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch

from qk_lightning.parts.base import Part


class PartHooks:
    """Calls a function before and after each call into a part; what the part does inside is one.

    `forward` has torch's hooks, outside those of FSDP: gathering counts as the part's. Its other
    entries (`forward_methods`) are wrapped as FSDP's registration wraps them. Hooks are kept out
    of compiled graphs.

    Args:
        before: called with the family.
        after: called with the family, after an error too.
    """

    def __init__(self, before: Callable[[str], None], after: Callable[[str], None]) -> None:
        self._before = torch.compiler.disable(before)
        self._after = torch.compiler.disable(after)
        self._depth = 0
        self._undo: list[Callable[[], None]] = []

    def attach(self, parts: Mapping[str, Part]) -> None:
        """Begin to follow parts.

        Args:
            parts: part by family, sharded already where they are to be.
        """
        for family, part in parts.items():
            self._hook(family, part)
            for name in part.forward_methods:
                if name != "forward" and hasattr(part, name):
                    self._wrap(family, part, name)

    def detach(self) -> None:
        """Leave the parts as they were."""
        for undo in reversed(self._undo):
            undo()
        self._undo, self._depth = [], 0

    @property
    def is_inside(self) -> bool:
        """Whether a part is at work: an interrupt leaves it without a word."""
        return self._depth > 0

    def _enter(self, family: str) -> None:
        self._depth += 1
        if self._depth == 1:
            self._before(family)

    def _leave(self, family: str) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._after(family)

    def _hook(self, family: str, part: Part) -> None:
        @torch.compiler.disable
        def _before(*_: Any) -> None:
            self._enter(family)

        @torch.compiler.disable
        def _after(*_: Any) -> None:
            self._leave(family)

        first = part.register_forward_pre_hook(_before, prepend=True)
        last = part.register_forward_hook(_after, always_call=True)
        self._undo += [first.remove, last.remove]

    def _wrap(self, family: str, part: Part, name: str) -> None:
        is_own = name in vars(part)  # FSDP's wrapper stands there
        inner = getattr(part, name)

        @functools.wraps(inner)
        def _followed(*args: Any, **kwargs: Any) -> Any:
            self._enter(family)
            try:
                return inner(*args, **kwargs)
            finally:
                self._leave(family)

        def _undo() -> None:
            if is_own:
                setattr(part, name, inner)
            else:
                delattr(part, name)

        setattr(part, name, _followed)
        self._undo.append(_undo)
