"""A browser for each module of tests; a test fails if the console told of an error meanwhile."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from tests.dashboard.tab_page import TabPage
from tests.loggers import _browser


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A headless chromium."""
    pytest.importorskip("selenium", reason="the tests of the tab drive chromium with selenium")
    if (absent := _browser.missing()) is not None:
        pytest.skip(absent)
    profile = tmp_path_factory.mktemp("profile")
    with _browser.browser(profile) as running:
        yield running
    shutil.rmtree(profile, ignore_errors=True)


@pytest.fixture
def page(driver: Any) -> Iterator[TabPage]:
    """A page; the console must stay without errors, refusals and breaches of the content security policy."""
    shown = TabPage(driver)
    shown.console()
    yield shown
    assert shown.complaints() == []
