"""The report is one page: its data are the tab's answers, hostile names are text, nothing comes from elsewhere."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convscope.dashboard import Run, read_run
from convscope.dashboard.answers import correlation, overview
from convscope.dashboard.embedding import embed, incident_checks, key
from convscope.dashboard.json_values import as_json
from convscope.dashboard.page import report
from tests.support.records import Checks

SAMPLE = Path(__file__).parent / "sample_v1"
HOSTILE = ["</script><script>alert(1)</script>", "<img src=x onerror=alert(1)>", "<!--\u2028日本", "a&b\"'"]


class Page(HTMLParser):
    """Elements of a page, and the data in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, Any]]] = []
        self.text, self._inside = {}, ""  # type: ignore[var-annotated]
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = dict(attrs).get("id", tag)

    def handle_data(self, data: str) -> None:
        self.text[self._inside] = self.text.get(self._inside, "") + data

    def data(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.text["convscope-data"])
        return {name: found["parts"][place] for name, place in found["places"].items()}


def test_the_page_holds_the_answers_of_the_tab() -> None:
    run = read_run(SAMPLE)
    data = Page(report({"a run": run}, {"a run": {"val_loss": {0: 1.0, 3: 0.5}, "probe/depth": {0: 1.0}}})).data()
    assert data["runs"]["runs"] == [{"name": "a run", "checks": 2, "revision": "report", "problem": None}]
    assert data["run?run=a%20run"] == json.loads(as_json(overview(run, "a run", "report")))
    layer = run.layers[0]
    asked = key("correlation", {"run": "a run", "family": "correlation", "layer": layer, "check": 1})
    expected = correlation(run, {"family": "correlation", "layer": layer, "check": "1"})
    assert data[asked] == json.loads(as_json(expected))
    table = data[key("values", {"run": "a run", "family": "probe", "quantity": "accuracy"})]["values"]
    np.testing.assert_allclose(np.array(table, dtype=float), run.values("probe", "accuracy"), rtol=1e-5)
    assert data["curves?run=a%20run"] == {"tags": ["val_loss"]}
    assert data["curve?run=a%20run&tag=val_loss"] == {"steps": [0, 3], "values": [1.0, 0.5]}
    picture = data[key("picture", {"run": "a run", "tag": run.pictures[0], "check": 1})]
    assert picture.startswith("iVBORw0KGgo")
    thumbnails = [
        key("array", {"run": "a run", "family": "prediction", "name": "thumbnails", "check": c}) for c in (0, 1)
    ]
    assert data[thumbnails[0]] == data[thumbnails[1]]
    assert report({"a run": run}, {}).count(data[thumbnails[0]]["value"][0]) == 1  # kept once


def test_hostile_names_are_text(tmp_path: Path) -> None:
    checks = Checks(tmp_path, [6, 5, 3, 4], HOSTILE)
    incident = {"severity": "</b><script>alert(2)</script>", "message": HOSTILE[0], "text": HOSTILE[1], "closed": None}
    checks.trainer.callbacks.append(type("Found", (), {"incidents": [incident]})())  # type: ignore[attr-defined]
    checks.write(0)
    run = read_run(tmp_path)
    text = report({HOSTILE[0]: run}, {HOSTILE[0]: {HOSTILE[1]: {0: 1.0}}})
    page = Page(text)
    assert [tag for tag, _ in page.tags if tag == "script"] == ["script"] * 2
    assert not [tag for tag, _ in page.tags if tag == "img"]
    assert "<!--" not in text
    assert [layer["name"] for layer in page.data()[key("run", {"run": HOSTILE[0]})]["layers"]] == HOSTILE


def test_nothing_is_loaded_from_elsewhere_or_sent() -> None:
    text = report({"run": read_run(SAMPLE)}, {})
    page = Page(text)
    assert not [found for _, found in page.tags if any(name in found for name in ("src", "href", "action"))]
    policy = next(found["content"] for tag, found in page.tags if found.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert re.findall(r'from "(\w+):', text) == ["data"]


def test_a_long_run_is_thinned_to_the_budget_and_says_so(tmp_path: Path) -> None:
    checks = Checks(tmp_path, [16, 16])
    incident = {"severity": "warning", "message": "m", "opened": {"step": 617, "epoch": 1}, "closed": {"step": 619}}
    checks.trainer.callbacks.append(type("Found", (), {"incidents": [incident]})())  # type: ignore[attr-defined]
    for step in range(1000):
        checks.write(step)
    run = read_run(tmp_path)
    text = report({"long": run}, {}, budget=400_000)
    data = Page(text).data()
    shown = data["run?run=long"]["steps"]
    assert (shown[0], shown[-1]) == (0, 999)
    assert {617, 619} <= set(shown)
    assert 20 <= len(shown) < 300
    assert len(data[key("values", {"run": "long", "family": "probe", "quantity": "quantity_0"})]["values"]) == len(
        shown
    )
    details = [name for name in data if name.startswith("correlation")]
    assert (
        key("correlation", {"run": "long", "family": "correlation", "layer": run.layers[0], "check": len(shown) - 1})
        in details
    )
    assert len(text) < 700_000  # the script among it
    assert f"long: {len(shown)} of 1000 checks are shown, with those of incidents." in text
    assert re.search(r"long: correlations, predictions and pictures of \d+ of \d+ checks\.", text)


def test_small_runs_are_kept_whole_and_share_the_budget(tmp_path: Path) -> None:
    run = read_run(SAMPLE)
    assert embed({"a": run, "b": run}, {}).notes == []
    made = embed({"a": run, "b": run}, {}, budget=1)
    assert [note.split(":")[0] for note in made.notes] == ["a", "b"]
    assert made.size > 1  # the numbers are always there
    assert incident_checks(run) == [1]


@pytest.mark.parametrize("share", [0.5, 0.7, 0.95])
def test_a_truncated_run_gives_a_page(tmp_path: Path, share: float) -> None:
    (sample,) = SAMPLE.glob("*tfevents*")
    (tmp_path / sample.name).write_bytes(sample.read_bytes()[: int(share * sample.stat().st_size)])
    run = Run(tmp_path)
    text = report({"cut": run}, {})
    assert len(Page(text).data()["run?run=cut"]["steps"]) == len(run.steps)


def test_a_run_without_a_check_says_what_to_wait_for(tmp_path: Path) -> None:
    run = read_run(SAMPLE).at_checks([])
    text = report({"new": run}, {})
    assert "new has no whole check yet: wait for the first one" in text
    assert Page(text).data()["runs"]["runs"][0]["checks"] == 0
