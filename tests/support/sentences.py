"""Sentences that the package can say, read from its source: what the docs quote has to be among them."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("alerts", "callbacks", "capture", "dashboard", "explainers", "loggers", "metrics", "recipes", "src")


@cache
def _runs() -> frozenset[tuple[str, ...]]:
    """Every three words that follow one another in a text of the source."""
    found: set[tuple[str, ...]] = set()
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            for text in _texts(ast.parse(path.read_text(encoding="utf-8"))):
                words = _words(text)
                found |= set(zip(words, words[1:], words[2:], strict=False))
    return frozenset(found)


def _texts(tree: ast.AST) -> list[str]:
    """Texts in the source; what is filled in at run time ends one and begins another."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return found


def _words(text: str) -> list[str]:
    return re.findall(r"[A-Za-z_]+(?:\(\))?", text)


def said(quoted: str) -> float:
    """Share of a quoted sentence's words that stand in the source with two neighbours; parts ``<…>`` do not count.

    A sentence is put together from several texts and from names and numbers, so this is seldom 1.
    """
    covered = total = 0
    for part in re.split(r"<[^>]*>|…|'[^']*'", quoted):
        words = _words(part)
        marked = [False] * len(words)
        for start in range(len(words) - 2):
            if tuple(words[start : start + 3]) in _runs():
                marked[start : start + 3] = [True] * 3
        covered, total = covered + sum(marked), total + (len(words) if len(words) > 2 else 0)
    return covered / total if total else 1.0
