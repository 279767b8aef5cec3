"""The constructor is the schema: what is read from the source equals what Python sees."""

from __future__ import annotations

import importlib
import inspect
from dataclasses import MISSING
from pathlib import Path

import pytest

from qk_lightning.config.errors import ConfigError
from qk_lightning.config.schema import FAMILIES, names_of, schema_of

PARTS = [(family, name) for family in FAMILIES for name in names_of(family)]


@pytest.mark.parametrize(("family", "name"), PARTS, ids=lambda value: str(value))
def test_schema_equals_the_signature(family: str, name: str) -> None:
    schema = schema_of(family, name)
    found = getattr(importlib.import_module(schema.module), schema.class_name)
    parameters = inspect.signature(found).parameters
    assert list(parameters) == list(schema.fields)
    for key, item in schema.options.items():
        default = parameters[key].default
        default = list(default) if isinstance(default, tuple) else default
        expected = MISSING if default is inspect.Parameter.empty else default
        assert item.default == expected
        assert item.doc, f"{key} is not explained in the docstring of {schema.class_name}"
    for attribute in ("wired", "paths", "families", "version"):
        if attribute in schema.attributes:
            assert tuple_or_value(getattr(found, attribute)) == schema.attributes[attribute]


def tuple_or_value(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


@pytest.mark.parametrize(
    ("source", "fix"),
    [
        ("class Bottleneck: ...\nclass Wide: ...\n", "did you mean 'Bottleneck'?"),
        ("class Alpha: ...\nclass Omega: ...\n", "known: Alpha, Omega"),
        ("", "name a module that has one"),
    ],
)
def test_a_misspelt_class_of_somebodys_module(
    source: str, fix: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "my_misspelt_bridges.py").write_text(source)
    monkeypatch.syspath_prepend(str(root))
    schema_of.cache_clear()
    with pytest.raises(ConfigError, match="a class 'Botleneck'") as caught:
        schema_of("connector", "my_misspelt_bridges:Botleneck")
    assert fix in str(caught.value)


def test_every_family_offers_something() -> None:
    assert {family for family, _ in PARTS} == set(FAMILIES)


@pytest.mark.parametrize(
    ("signature", "said"),
    [
        ("self, width=3", "keyword-only"),
        ("self, *, width: dict[str, set] = 3", "name 'set'"),
        ("self, *, width: Foo = 3", "a type that YAML can hold"),
    ],
)
def test_a_constructor_that_yaml_cannot_fill_is_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch, signature: str, said: str
) -> None:
    name = f"odd_{abs(hash(signature))}"
    (root / f"{name}.py").write_text(f"class Bad:\n    def __init__({signature}):\n        pass\n")
    monkeypatch.syspath_prepend(str(root))
    with pytest.raises((ConfigError, NameError)) as caught:
        schema_of("connector", f"{name}:Bad")
    assert said in str(caught.value)


def test_a_nested_dataclass_is_one_subject(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (
        "from dataclasses import dataclass\n\n@dataclass\nclass Norm:\n    gain: float = 2.0\n\n"
        "class Nested:\n    def __init__(self, *, norm: Norm = Norm(), depth: int = 1):\n"
        "        pass\n"
    )
    (root / "nested_part.py").write_text(text)
    monkeypatch.syspath_prepend(str(root))
    structured = schema_of("connector", "nested_part:Nested").structured()
    assert structured.norm.gain == 2.0
