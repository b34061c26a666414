"""A report as a person opens it: from a file, offline, printed."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import pytest

from convscope.dashboard import read_run
from convscope.dashboard.page import report
from tests.dashboard.tab_page import TabPage
from tests.dashboard.tab_views import AXE, violations
from tests.support.records import Checks

pytestmark = pytest.mark.browser
SAMPLE = Path(__file__).parent / "sample_v1"
HOSTILE = ["</script><script>document.title='broken'</script>", "<img src=x onerror=document.title='broken'>", "a&b"]


def test_every_view_of_a_report_shows(page: TabPage, tmp_path: Path) -> None:
    run = read_run(SAMPLE)
    (tmp_path / "r.html").write_text(
        report({"a": run, "b": run}, {"a": {"val_loss": {0: 1.0, 3: 0.5}}}), encoding="utf-8"
    )
    page.open_file((tmp_path / "r.html").as_uri())
    page.wait_for_text("2 checks of 7 layers from before training")
    for view in ("overview", "incidents", "layer", "predictions", "compare", "methods"):
        page.find(f'button[data-view="{view}"]').click()
        page.wait_for_text("convscope")
        assert page.script("return document.getElementById('view').innerText.length") > 40, view
        assert page.complaints() == []
    assert page.script("return document.querySelectorAll('.report li').length") > 16


def test_what_a_long_run_has_left_out_is_told(page: TabPage, tmp_path: Path) -> None:
    run = read_run(SAMPLE)
    (tmp_path / "r.html").write_text(report({"long": run}, {}, budget=1), encoding="utf-8")
    for view, sentence in (
        ("layer", "Correlation of filters is not in this report"),
        ("predictions", "predict is not in"),
    ):
        page.open_file(f"{(tmp_path / 'r.html').as_uri()}#view={view}&step={run.steps[0]}")
        page.wait_for_text(sentence)
    assert page.complaints() == []


def test_hostile_names_do_nothing(page: TabPage, tmp_path: Path) -> None:
    checks = Checks(tmp_path / "run", [6, 5, 3], HOSTILE)
    checks.write(0)
    checks.write(4, epoch=1)
    text = report({HOSTILE[0]: read_run(tmp_path / "run")}, {HOSTILE[0]: {HOSTILE[1]: {0: 1.0}}})
    (tmp_path / "r.html").write_text(text, encoding="utf-8")
    page.open_file((tmp_path / "r.html").as_uri())
    page.wait_for_text(HOSTILE[2])
    for view in ("overview", "layer", "compare"):
        page.find(f'button[data-view="{view}"]').click()
    assert page.complaints() == []
    assert page.driver.title != "broken"
    assert page.script("return document.querySelectorAll('img[src=x]').length") == 0


@pytest.mark.skipif(not AXE.exists(), reason="axe-core is not there: npm ci in dashboard/frontend")
def test_axe_core_finds_nothing(page: TabPage, tmp_path: Path) -> None:
    run = read_run(SAMPLE)
    (tmp_path / "r.html").write_text(report({"a": run, "b": run}, {}), encoding="utf-8")
    page.open_file((tmp_path / "r.html").as_uri())
    page.wait_for_text("What happened")
    assert violations(page) == []


def test_it_prints(page: TabPage, tmp_path: Path) -> None:
    (tmp_path / "r.html").write_text(report({"run": read_run(SAMPLE)}, {}), encoding="utf-8")
    page.open_file((tmp_path / "r.html").as_uri())
    page.wait_for_text("2 checks of 7 layers")
    page.wait_for_text("Layers at")
    printed = base64.b64decode(page.driver.print_page())
    assert printed.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) >= 2  # the summary, then the views
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    shown = page.script("return document.querySelector('#convscope-view').innerText")
    names = [name.removeprefix("net.") for name in read_run(SAMPLE).layers]
    assert [name for name in names if name not in shown.split("Layers at")[-1]] == []
