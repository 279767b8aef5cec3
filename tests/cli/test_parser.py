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


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("generate x --image a.png", "did you mean --source or --reference?"),
        ("fit a --max_steps 20", "an override is written max_steps=20"),
        ("fit a --max-steps=20", "an override is written max_steps=20"),
        ("sweep a --plann", "did you mean --plan?"),
        ("generate x --num-images two", "write a whole number, such as 1"),
        ("data shw avatars", "did you mean 'show'?"),
        ("fit", "write qk fit PRESET"),
        ("doctor x", "qk doctor --help"),
    ],
)
def test_a_word_that_a_verb_does_not_know_has_a_fix(
    line: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        build_parser().parse_args(line.split())
    assert ended.value.code == 2
    text = capsys.readouterr().err
    assert text.startswith(f"qk {line.split()[0]}: ")
    assert text.rstrip().endswith(f"fix: {said}")
