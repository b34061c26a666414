"""The two shell lines of the README that the check before landing runs; tests/test_doc_blocks.py tries the rest."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_two_lines_are_there_for_the_check_before_landing() -> None:
    for mark in ("run", "test"):
        block = README.split(f"<!-- {mark} -->")[1].split(f"<!-- /{mark} -->")[0]
        assert block.count("python3 -m venv .venv") == 1
