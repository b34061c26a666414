"""The page on the validation of multi-scale interpretation, from the records of its runs."""

from __future__ import annotations


def report(records: list[dict]) -> str:
    """Markdown."""
    return ""
