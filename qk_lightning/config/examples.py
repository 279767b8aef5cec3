"""What a value of a type looks like, in words: the fix of a value of another type."""

from __future__ import annotations

import ast

EXAMPLES = {
    "int": "a whole number, such as 1",
    "float": "a number, such as 0.5",
    "bool": "true or false",
    "str": "a text",
    "list[int]": "a list of whole numbers, such as [1, 2]",
    "list[float]": "a list of numbers, such as [0.5, 1]",
    "list[str]": "a list of texts, such as [a, b]",
    "dict[str, float]": "numbers by name, such as {head: 0.5}",
}


def example_of(type_text: str) -> str:
    """Say in words what a value of a type looks like.

    Args:
        type_text: an annotation as written, such as `int | None`.

    Returns:
        For example `a whole number, such as 1`; "" for types of their own, such as dataclasses.
    """
    kinds = [text.strip() for text in type_text.split("|")]
    more = ", or null" if "None" in kinds else ""
    kind = next((text for text in kinds if text != "None"), "")
    if kind.startswith("Literal["):
        choices = [str(value) for value in ast.literal_eval(f"({kind[8:-1]},)")]
        return f"one of: {', '.join(choices)}{more}"
    return f"{EXAMPLES[kind]}{more}" if kind in EXAMPLES else ""
