"""What argparse refuses, said as the kit says it: what is wrong, then `fix:`."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from difflib import get_close_matches

from qk_lightning.config.errors import did_you_mean

# Words of other tools -> what ours are called; only those that the verb has are named.
ELSEWHERE = {
    "--image": ("--source", "--reference"),
    "--images": ("--source", "--reference"),
    "--input": ("--source", "--reference"),
    "--num": ("--num-images",),
    "--steps": ("--num-inference-steps",),
    "--cfg": ("--guidance-scale",),
    "--out": ("--output",),
    "--dry-run": ("--plan",),
    "--gpu": ("--device",),
}
NUMBERS = {"int": "a whole number, such as 1", "float": "a number, such as 1.5"}


def unknown_option(parser: argparse.ArgumentParser, word: str, words: Sequence[str]) -> str:
    """Say that a verb has no such option, and which one was meant.

    Args:
        parser: the verb's parser.
        word: what it does not know, such as `--image` or `--max-steps=20`.
        words: the whole line, for the value that follows.

    Returns:
        A message with its fix.
    """
    flag, _, value = word.partition("=")
    known = [name for item in parser._actions for name in item.option_strings]
    if not flag.startswith("-"):
        return f"{word!r} is one word too many\n    fix: {parser.prog} --help"
    message = f"there is no option {flag}\n    fix: "
    if meant := [name for name in ELSEWHERE.get(flag, ()) if name in known]:
        return f"{message}did you mean {' or '.join(meant)}?"
    near = get_close_matches(flag, known, n=1, cutoff=0.75)
    if near:
        return f"{message}did you mean {near[0]}?"
    if flag.startswith("--") and any(item.dest == "overrides" for item in parser._actions):
        after = words[words.index(word) + 1 : words.index(word) + 2] if word in words else []
        value = value or next((text for text in after if not text.startswith("-")), "...")
        return f"{message}an override is written {flag.lstrip('-').replace('-', '_')}={value}"
    return f"{message}{parser.prog} --help lists its options"


def with_fix(parser: argparse.ArgumentParser, message: str) -> str:
    """Add a fix to one of argparse's own messages.

    Args:
        parser: the verb's parser.
        message: the message; one that has a fix stays as it is.
    """
    if "fix:" in message:
        return message
    fix = f"{parser.prog} --help"
    if found := re.search(r"invalid (int|float) value", message):
        fix = f"write {NUMBERS[found.group(1)]}"
    elif found := re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message):
        fix = did_you_mean(found.group(1), [name.strip(" '") for name in found.group(2).split(",")])
    elif "required" in message:
        needed = [item for item in parser._get_positional_actions() if item.required]
        words = [str(item.metavar or item.dest).upper() for item in needed]
        fix = f"write {' '.join([parser.prog, *words])}"
    return f"{message}\n    fix: {fix}"
