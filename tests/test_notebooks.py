"""The notebooks run from top to bottom, as scripts; what they link to is there."""

from __future__ import annotations

import os
import re
import runpy
from pathlib import Path

import pytest

pytest.importorskip("sklearn")
ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.py"))


def test_there_is_one_for_first_use_for_a_replay_and_for_extending() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["extending", "first_use", "replay"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(path), run_name="__main__")
    assert os.listdir(tmp_path)  # a run, or checkpoints


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_s_links_and_pictures_are_there(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("# %% [markdown]") >= 5
    for target in re.findall(r"\]\(([^)#:\s]+)\)", text):
        page = ROOT / "docs" / "notebooks" / target
        beside = ROOT / "notebooks" / f"{page.stem}.py"
        assert page.resolve().exists() or (page.parent.name == "notebooks" and beside.exists()), target
