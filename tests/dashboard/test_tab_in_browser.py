"""The tab as TensorBoard shows it: its script is loaded and it lists the runs, also below a path prefix."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.dashboard.tab_page import TabPage
from tests.support.tensorboards import serve

pytestmark = pytest.mark.browser
SAMPLE = Path(__file__).parent / "sample_v1"


@pytest.mark.parametrize(("prefix", "mode"), [("/some/where", "true"), ("", "false")])
def test_the_tab_opens_and_shows_the_run(page: TabPage, tmp_path: Path, prefix: str, mode: str) -> None:
    shutil.copytree(SAMPLE, tmp_path / "runs" / "sample")
    with serve(tmp_path / "runs", f"--load_fast={mode}", entry_points=tmp_path / "paths", prefix=prefix) as server:
        server.wait(runs=1)
        page.open(server)
        page.wait_for_text("sample")
        page.leave()
