"""Pages of the docs of which one part is written by a benchmark, and the rest by hand."""

from __future__ import annotations

from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
BEGIN, END = "<!-- tables: written by the script -->", "<!-- end of tables -->"


def write_tables(page: Path, tables: str) -> None:
    """Put tables between the marks of a page; what is around them stays."""
    text = page.read_text(encoding="utf-8")
    page.write_text(f"{text.split(BEGIN)[0]}{BEGIN}\n\n{tables}\n\n{END}{text.split(END)[1]}", encoding="utf-8")
