"""Parameter counts on the meta device against the published ones, in code and in the docs."""

from __future__ import annotations

import re

import pytest

from qk_lightning.bench.sizes import Size, published_sizes
from qk_lightning.bench.tables import sizes_table, write_section
from qk_lightning.config.paths import package_root
from qk_lightning.config.schema import names_of

PAGE = package_root().parent / "docs" / "parts.md"
SIZES = list(published_sizes())


def section(name: str) -> str:
    found = re.search(
        rf"<!-- begin: {name} -->\n(.*?)\n<!-- end: {name} -->", PAGE.read_text(), re.S
    )
    assert found, f"no section {name} in {PAGE.name}"
    return found[1]


@pytest.mark.parametrize("size", SIZES, ids=lambda size: size.what)
def test_a_part_has_the_size_that_was_published(size: Size) -> None:
    assert size.millions == pytest.approx(size.published, rel=size.tolerance)


def test_the_published_sizes_are_those_of_the_papers() -> None:
    told = [(size.published, size.tolerance) for size in SIZES]
    exact = [(millions, 0.03) for millions in (316, 84, 2046, 517)]
    assert told == [*exact, *[(millions, 0.15) for millions in (50, 870, 10_000)]]


def test_the_docs_show_what_is_counted() -> None:
    assert section("sizes") == sizes_table(SIZES), "qk bench parts --output docs/parts.md"


def test_the_docs_show_every_part() -> None:
    said = set(re.findall(r"`(\w+)`", section("triples")))
    for family in ("vlm", "connector", "head"):
        missing = set(names_of(family)) - said
        assert not missing, f"{missing}: qk bench parts --output docs/parts.md"
    assert "FAULT" not in section("triples")


def test_a_section_is_replaced_and_the_rest_of_a_page_kept(tmp_path) -> None:
    page = tmp_path / "page.md"
    write_section(page, "sizes", "old")
    page.write_text(f"# Title\n\n{page.read_text()}\nafter\n")
    write_section(page, "sizes", r"new \1")
    write_section(page, "triples", "more")
    text = page.read_text()
    assert text.startswith(
        "# Title\n\n<!-- begin: sizes -->\nnew \\1\n<!-- end: sizes -->\n\nafter"
    )
    assert text.endswith("<!-- begin: triples -->\nmore\n<!-- end: triples -->\n")
