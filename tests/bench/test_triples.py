"""Every part trains with one partner of each other family; all triples do, where that is slow."""

from __future__ import annotations

from pathlib import Path

import pytest

from qk_lightning.bench import tiny
from qk_lightning.bench.tables import triples_table
from qk_lightning.bench.triples import FAMILIES, Bench, Outcome, triples
from qk_lightning.cli.main import main
from qk_lightning.config.schema import names_of, schema_of

PARTNERS = {"vlm": "qwen2_5_vl", "connector": "mlp", "head": "flux"}
EACH = dict.fromkeys(
    tuple({**PARTNERS, family: name}.values()) for family in FAMILIES for name in names_of(family)
)
CONNECTORS = '''
from torch import nn

from qk_lightning.parts.base import Part


class Deaf(Part):
    """Nothing of it learns though it could."""

    wired = ("input_size", "output_size")

    def __init__(self, *, input_size: int, output_size: int) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.linear = nn.Linear(input_size, output_size)

    def forward(self, states, mask):
        return self.linear(states).detach()


class Proud(Deaf):
    """It takes no neighbour narrower than itself."""

    wired = ("input_size", "output_size")

    def __init__(self, *, input_size: int, output_size: int) -> None:
        super().__init__(input_size=input_size, output_size=output_size)
        if output_size < input_size:
            raise ValueError(f"proud: {output_size} is too narrow; take a wider head")
'''


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("tiny"))


def test_triples_are_found_in_the_parts_folders() -> None:
    found = triples()
    assert len(found) == len(set(found))
    for place, family in enumerate(FAMILIES):
        assert {triple[place] for triple in found} == set(names_of(family))
    assert triples(["mlp", "flux"]) == [(vlm, "mlp", "flux") for vlm in names_of("vlm")]


@pytest.mark.parametrize("triple", list(EACH), ids=" + ".join)
def test_each_part_trains_with_one_partner(bench: Bench, triple: tuple[str, str, str]) -> None:
    outcome = bench.try_one(*triple)
    assert not outcome.fault and not outcome.refused
    assert 0 < outcome.reached <= outcome.learning


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_triple_trains_or_is_refused_with_a_reason(bench: Bench) -> None:
    outcomes = list(bench.try_all(triples()))
    assert not [outcome for outcome in outcomes if outcome.fault]
    assert sum(not outcome.refused for outcome in outcomes) > len(outcomes) / 2


@pytest.fixture
def own_connectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "own_bridges.py").write_text(CONNECTORS)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    schema_of.cache_clear()


def test_a_part_that_is_not_reached_is_a_fault(bench: Bench, own_connectors) -> None:
    outcome = bench.try_one("qwen2_5_vl", "own_bridges:Deaf", "flux")
    assert "no gradient reaches connector.linear" in outcome.fault
    assert "FAULT (1)" in triples_table([outcome])


def test_a_refusal_is_told_with_its_reason(bench: Bench, own_connectors) -> None:
    outcome = bench.try_one("qwen2_5_vl", "own_bridges:Proud", "flux")
    assert not outcome.fault and "24 is too narrow" in outcome.refused
    said = triples_table([outcome, Outcome("a", "b", "c", reached=3, learning=4)])
    assert "refused (1)" in said and "\n1. options that fit" in said and "| 3 of 4 |" in said


def test_a_part_without_a_tiny_checkpoint_is_a_fault(bench: Bench, monkeypatch) -> None:
    monkeypatch.setattr(tiny, "HEADS", {})
    outcome = Bench(bench.folder).try_one("qwen2_5_vl", "mlp", "flux")
    assert outcome.fault == "no tiny flux: write one in bench/tiny.py"


def test_the_command_fills_a_page_and_names_what_it_does_not_know(root: Path, capsys) -> None:
    words = ["bench", "parts", "--only", "qwen2_5_vl", "linear", "flux"]
    page = root / "page.md"
    assert main([*words, "--output", str(page)]) == 0
    text = page.read_text()
    assert "| `linear` |" in text and "begin: sizes" not in text
    assert "qwen2_5_vl + linear + flux: trains" in capsys.readouterr().err
    assert main(["bench", "parts", "--only", "linar"]) == 2
    assert "did you mean 'linear'" in capsys.readouterr().err
