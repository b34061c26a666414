"""Messages that the docs quote are messages that the package has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.sentences import said

DOCS = Path(__file__).parents[1] / "docs"


def quoted(page: str, begins: str, ends: str, column: int) -> list[str]:
    """What stands in backticks in a column of the tables between two headings."""
    text = (DOCS / page).read_text(encoding="utf-8")
    found = []
    for row in text[text.index(begins) : text.index(ends)].splitlines():
        cells = row.split("|")
        if row.startswith("|") and not row.startswith("|---"):
            found += re.findall(r"`([^`]+)`", cells[column])
    return [message for message in found if len(re.findall(r"[a-z]{2,}", message)) > 3]


BY_MESSAGE = quoted("troubleshooting.md", "## By message", "## After an error", 1)
LISTED = quoted("compatibility.md", "### Held-out data and loaders", "## Known limits", 3)


def test_the_pages_quote_many() -> None:
    assert len(BY_MESSAGE) >= 35
    assert len(LISTED) >= 90


@pytest.mark.parametrize("message", dict.fromkeys([*BY_MESSAGE, *LISTED]))
def test_a_message_that_is_quoted_is_one_that_is_said(message: str) -> None:
    assert said(message) > 0.45


def test_another_sentence_is_noticed() -> None:
    assert said("the model gives <n> things, and nobody knows what these might be; please tell us more of it") < 0.2
    assert said("layer <layer> is executed only for certain inputs and therefore gets skipped") < 0.2
