"""Each metric has a page that says what a number means, when it misleads, where it is from and what it costs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import convscope

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted((DOCS / "metrics").glob("*.md"))
SECTIONS = ("What is computed", "Tags", "What healthy looks like", "When it misleads", "Cost", "In code")
MEASURED = re.compile(r"\b(?:alone\s+took|takes|time:|by) (\d+\.\d+)")


def section(page: Path, title: str) -> str:
    """The text below a heading; a cost may stand together with the state in checkpoints."""
    found = re.search(rf"^## {title}(?: and state)?\n(.*?)(?=^## |\Z)", page.read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None, f"there is no section {title!r}"
    return found[1]


@pytest.mark.parametrize("title", SECTIONS)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_has_every_section(page: Path, title: str) -> None:
    assert len(section(page, title).split()) >= (2 if title == "In code" else 20)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_begins_with_its_question_and_its_source(page: Path) -> None:
    heading, question, source = page.read_text().split("\n\n")[:3]
    assert heading.startswith("# ")
    assert re.fullmatch(r"\*\*.+\?\*\*", question, re.DOTALL)
    assert source.startswith("Source: ")
    assert re.search(r"paper|reconstruction", source)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_tags_have_a_meaning_and_a_range(page: Path) -> None:
    header, _, *rows = [line for line in section(page, "Tags").splitlines() if line.startswith("|")]
    assert re.fullmatch(r"\| tag \| meaning \| (?:unit, )?range \|", header)
    for row in rows:
        tag, meaning, _ = (cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1])
        assert tag.startswith("`"), row
        assert meaning, row


def test_costs_are_those_that_were_measured() -> None:
    measured = "\n".join(page.read_text() for page in sorted(DOCS.glob("benchmarks*.md")))
    quoted = {(page.stem, number) for page in PAGES for number in MEASURED.findall(section(page, "Cost"))}
    assert len(quoted) >= 8
    assert {(page, number) for page, number in quoted if number not in measured} == set()


def test_each_callback_of_the_full_suite_is_on_a_page() -> None:
    text = "\n".join(section(page, "In code") for page in PAGES)
    names = {type(callback).__name__ for callback in convscope.suite("full")} - {"DriftAlert", "LayerTable"}
    assert {name for name in names if f"`convscope.{name}`" not in text} == set()
