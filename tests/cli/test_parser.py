"""Overrides stand anywhere on the line: between, before and after the flags."""

from __future__ import annotations

import pytest

from qk_lightning.cli.parser import build_parser


@pytest.mark.parametrize(
    ("line", "option", "words"),
    [
        ("fit a --plan seed=1", "overrides", ["seed=1"]),
        ("fit --plan a seed=1 --redo x=2", "overrides", ["seed=1", "x=2"]),
        ("sweep a --plan x=2", "overrides", ["x=2"]),
        ("config a --explain seed x=2", "overrides", ["x=2"]),
        ("config --write mine.yaml a x=2 --force", "overrides", ["x=2"]),
        ("data show avatars --per-task 3 x=2", "overrides", ["x=2"]),
        ("evaluate prompts scenes --output D x=2", "words", ["prompts", "scenes", "x=2"]),
        ("evaluate --images D scenes x=2 --limit 3", "words", ["scenes", "x=2"]),
        ("fit a", "overrides", []),
    ],
)
def test_an_override_may_follow_a_flag(line: str, option: str, words: list[str]) -> None:
    assert getattr(build_parser().parse_args(line.split()), option) == words
