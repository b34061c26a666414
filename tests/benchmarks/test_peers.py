"""The comparison with other tools: what it calls equal, and what it says of a tool that changes the run."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("sklearn")
from benchmarks import peers


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "EPOCHS", 1)
    monkeypatch.setattr(peers, "WIDTH", 4)


def test_watched_by_convscope_a_run_is_the_same(tmp_path: Path) -> None:
    found = peers.try_convscope(tmp_path)
    assert peers.same(peers.fit(peers.network()), found) == "bitwise equal"
    assert found["hooks"] == 0


def test_attribution_in_training_mode_changes_the_run(tmp_path: Path) -> None:
    pytest.importorskip("captum")
    bare = peers.fit(peers.network())
    assert peers.same(bare, peers.try_captum(tmp_path)) == "bitwise equal"
    assert peers.same(bare, peers.try_captum_in_training_mode(tmp_path)) == "12 of 30 tensors differ"


def test_a_tool_that_is_missing_or_fails_is_said_to(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(folder: Path) -> dict[str, object]:
        raise RuntimeError("no such thing")

    monkeypatch.setitem(peers.TOOLS, "delve", ("surely-not-installed", fails))
    monkeypatch.setitem(peers.TOOLS, "captum", ("numpy", fails))
    assert peers.line("delve", {}) == "| delve | not installed | | | | |"
    assert "failed: RuntimeError: no such thing" in peers.line("captum", {})
