"""The tab's back end in this process: the numbers of the files, strict JSON, ETags, and a sentence for the rest."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.tensorboard import SummaryWriter

from convscope.dashboard import form, read_run, read_runs
from convscope.dashboard.answers import is_own, overview
from convscope.dashboard.json_values import as_json
from convscope.loggers.record import TensorWriter
from tests.support.records import Checks
from tests.support.tensorboards import Tab, strict

SAMPLE = Path(__file__).parent / "sample_v1"
NAMES = ["a/b<script>alert(1)</script>", "日本.conv", "output@2", "é\u202e\"'&?=#%2F"]


def sampled(folder: Path, name: str = "run") -> Path:
    """A copy of the recorded run in a folder of logs."""
    shutil.copytree(SAMPLE, folder / name, ignore=shutil.ignore_patterns("*.json"))
    return folder


def close(found: Any, expected: Any) -> None:
    """Compare a table of JSON with an array, to the six digits that are sent; null for NaN."""
    table = np.array(found, dtype=object)
    numbers = np.where(np.equal(table, None), np.nan, table).astype(np.float64)
    np.testing.assert_allclose(numbers, np.asarray(expected, dtype=np.float64), rtol=1e-5)


def test_the_tab_gives_the_numbers_of_the_files(tmp_path: Path) -> None:
    tab, run = Tab(sampled(tmp_path)), read_run(SAMPLE)
    (listed,) = tab.ask("runs")["runs"]
    assert (listed["name"], listed["checks"], listed["problem"]) == ("run", 2, None)
    whole = tab.ask("run", run="run")
    assert [layer["name"] for layer in whole["layers"]] == run.layers
    assert (whole["steps"], whole["epochs"], whole["triggers"]) == (run.steps, [0, 1], run.triggers)
    assert whole["revision"] == listed["revision"]
    assert [one["rule"] for one in whole["incidents"]] == ["always"]
    assert 0 < whole["chance"] < 1
    assert {one["name"]: one["kind"] for one in whole["families"]}["probe"] == "probe"
    for family in whole["families"]:
        asked = {"run": "run", "family": family["name"]}
        for quantity in family["quantities"]:
            assert {"title", "unit", "low", "high", "meaning"} <= quantity.keys()
            table = tab.ask("values", **asked, quantity=quantity["name"])["values"]
            close(table, run.values(family["name"], quantity["name"]))
        for name, row in tab.ask("summary", **asked).items():
            close(row, run.summary(family["name"])[name])
        for layer in family["filters"]:
            close(tab.ask("filters", **asked, layer=layer)["values"], run.filters(family["name"], layer))
        for layer in family["matrices"]:
            found, kept = (
                tab.ask("correlation", **asked, layer=layer, check=0),
                run.correlation("correlation", layer, 0),
            )
            assert kept is not None
            assert (found["order"], found["partner"]) == (kept.order.tolist(), kept.partner.tolist())
            np.testing.assert_allclose(np.array(found["matrix"], dtype=float), kept.matrix, atol=1e-3)
            assert [pair[:2] for pair in found["pairs"]] == [list(pair[:2]) for pair in kept.pairs(0.5)]
    families = {one["name"]: one for one in whole["families"]}
    assert families["importance"]["filters"]
    assert families["correlation"]["matrices"]
    assert set(families["prediction"]["arrays"]) == set(run.arrays("prediction"))


def test_arrays_and_pictures(tmp_path: Path) -> None:
    tab, run = Tab(sampled(tmp_path)), read_run(SAMPLE)
    asked = {"run": "run", "family": "prediction", "check": 1}
    close(tab.ask("array", **asked, name="probability")["value"], run.array("prediction", "probability"))
    close(tab.ask("array", **asked, name="classes")["value"], run.array("prediction", "classes"))
    assert tab.ask("array", **asked, name="thumbnails")["value"][0].startswith("iVBORw0KGgo")  # PNG in base64
    (tag,) = tab.ask("run", run="run")["pictures"]
    answer = tab.get("picture", run="run", tag=tag, check=1)
    assert answer.content_type == "image/png"
    assert answer.data == run.picture(tag)


def test_hostile_names_and_numbers_that_are_not_finite_come_back_as_they_are(tmp_path: Path) -> None:
    checks = Checks(tmp_path, [6, 5, 3, 4], NAMES)
    checks.write(0)
    checks.written[0]["probe"].layers[NAMES[0]].scalars["quantity_0"] = float("nan")
    checks.write(4)
    tab = Tab(tmp_path)
    (run,) = tab.ask("runs")["runs"]
    whole = tab.ask("run", run=run["name"])
    assert [layer["name"] for layer in whole["layers"]] == NAMES
    for name in NAMES:
        found = tab.ask("correlation", run=run["name"], family="correlation", layer=name)
        assert None in found["matrix"][found["order"].index(0)]  # the constant filter
        assert len(tab.ask("filters", run=run["name"], family="importance", layer=name)["values"]) == 2


def test_null_stands_for_what_was_not_measured(tmp_path: Path) -> None:
    writer = TensorWriter(form.PLUGIN, tmp_path / "run")
    layer = {"name": "conv", "kind": "Conv2d", "channels": 2, "spatial": [4, 4], "output": False, "order": 0}
    family = {"kind": "mine", "layers": ["conv"], "quantities": {}, "summary": ["best"]}
    manifest = {"version": 1, "versions": {}, "layers": [layer], "families": {"mine": family}, "heldout": []}
    writer.write(form.SESSION, json.dumps({"begins": 0, "version": 1}), 0)
    writer.write(form.MANIFEST, json.dumps(manifest), 0)
    writer.write(form.values_tag("mine", "x"), np.array([np.inf], dtype=np.float32), 0)
    writer.write(form.summary_tag("mine"), np.array([-np.inf], dtype=np.float32), 0)
    writer.write(form.INCIDENTS, '[{"rule": "r", "values": {"a": NaN}, "text": "</script>"}]', 0)
    writer.write(form.CHECK, np.array([0, 1, 2], dtype=np.int64), 0)
    writer.close()
    tab = Tab(tmp_path)
    assert tab.ask("values", run="run", family="mine", quantity="x") == {"values": [[None]]}
    assert tab.ask("summary", run="run", family="mine") == {"best": [None]}
    whole = tab.ask("run", run="run")
    assert whole["incidents"] == [{"rule": "r", "values": {"a": None}, "text": "</script>"}]
    assert whole["families"][0]["quantities"] == [{"name": "x"}]
    assert (whole["class_names"], whole["chance"]) == (None, None)


@pytest.mark.parametrize(
    ("route", "params", "sentence"),
    [
        ("run", {"run": "other"}, "run='other' has no data of convscope: train with its callbacks"),
        ("run", {}, "run='' has no data"),
        ("values", {"family": "nothing"}, "family='nothing' is not there: there is probe, importance"),
        ("values", {"family": "probe", "quantity": "x"}, "quantity='x' is not there: there is accuracy"),
        ("values", {}, "family=None is not there"),
        ("filters", {"family": "importance", "layer": "x"}, "layer='x' is not there"),
        ("filters", {"family": "probe", "layer": "net.conv1"}, "layer='net.conv1' is not there: there is none"),
        ("correlation", {"family": "correlation", "layer": "net.conv1", "check": 2}, "there are checks 0 to 1"),
        ("correlation", {"family": "correlation", "layer": "net.conv1", "check": "-1"}, "check='-1' is not there"),
        ("array", {"family": "prediction", "name": "../x"}, "name='../x' is not there"),
        ("picture", {"tag": "x"}, "tag='x' is not there"),
        ("curve", {"tag": "x"}, "tag='x' is not a scalar of this run"),
    ],
)
def test_what_is_not_there_is_answered_with_a_sentence(
    route: str, params: dict[str, Any], sentence: str, tab: Tab
) -> None:
    answer = tab.get(route, **({"run": "run"} if route != "run" else {}), **params)
    assert answer.status_code == 404
    assert sentence in strict(answer.get_data(as_text=True))["error"]


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Tab:
    return Tab(sampled(tmp_path_factory.mktemp("logs")))


def test_an_answer_is_sent_once_per_revision(tmp_path: Path) -> None:
    checks = Checks(tmp_path, [4, 4])
    checks.write(0)
    tab = Tab(tmp_path)
    (run,) = tab.ask("runs")["runs"]
    asked = {"run": run["name"], "family": "probe", "quantity": "quantity_0"}
    first = tab.get("values", {"Accept-Encoding": "gzip"}, **asked)
    assert first.headers["Content-Encoding"] == "gzip"
    etag = first.headers["ETag"]
    again = tab.get("values", {"If-None-Match": etag}, **asked)
    assert (again.status_code, again.data) == (304, b"")
    other = tab.get("values", {"If-None-Match": etag}, **(asked | {"quantity": "quantity_1"}))
    assert other.status_code == 200
    runs = tab.get("runs").headers["ETag"]
    assert tab.get("runs", {"If-None-Match": runs}).status_code == 304
    checks.write(4)
    tab.reload()
    assert tab.get("runs", {"If-None-Match": runs}).status_code == 200
    (grown,) = tab.ask("runs")["runs"]
    assert (grown["checks"], grown["revision"] != run["revision"]) == (2, True)
    new = tab.get("values", {"If-None-Match": etag}, **asked)
    assert (new.status_code, len(strict(new.get_data(as_text=True))["values"])) == (200, 2)


def test_incidents_that_come_after_a_check_are_seen(tmp_path: Path) -> None:
    checks = Checks(tmp_path, [4])
    checks.write(0)
    tab = Tab(tmp_path)
    (before,) = tab.ask("runs")["runs"]
    checks.trainer.callbacks.append(type("Found", (), {"incidents": [{"rule": "late"}]})())  # type: ignore[attr-defined]
    checks.recorder.tell_incidents(checks.trainer, 0)
    tab.reload()
    (after,) = tab.ask("runs")["runs"]
    assert after["revision"] != before["revision"]
    assert [one["rule"] for one in tab.ask("run", run=after["name"])["incidents"]] == ["late"]


def test_a_resumed_run_reads_as_from_its_files(tmp_path: Path) -> None:
    first = Checks(tmp_path / "a", [4, 4])
    for step in (0, 3, 7, 11):
        first.write(step)
    second = Checks(tmp_path / "b", [4, 4, 4])
    for step in (8, 15):
        second.write(step)
    folder = tmp_path / "logs" / "run"
    folder.mkdir(parents=True)
    (folder / "events.out.tfevents.100.host.1.0.convscope").write_bytes(first.file.read_bytes())
    tab = Tab(tmp_path / "logs")
    assert tab.ask("run", run="run")["steps"] == [0, 3, 7, 11]
    (folder / "events.out.tfevents.1000.host.1.0.convscope").write_bytes(second.file.read_bytes())
    tab.reload()
    whole, run = tab.ask("run", run="run"), read_run(folder)
    assert whole["steps"] == run.steps == [0, 3, 7, 8, 15]
    close(
        tab.ask("values", run="run", family="probe", quantity="quantity_0")["values"], run.values("probe", "quantity_0")
    )


def test_runs_without_a_record_are_left_out_and_a_newer_one_says_what_to_do(tmp_path: Path) -> None:
    sampled(tmp_path)
    with SummaryWriter(str(tmp_path / "plain")) as writer:
        writer.add_scalar("loss", 1.0, 0)
    newer = TensorWriter(form.PLUGIN, tmp_path / "newer")
    newer.write(form.MANIFEST, json.dumps({"version": form.VERSION + 1}), 0)
    newer.close()
    spoiled = TensorWriter(form.PLUGIN, tmp_path / "spoiled")
    spoiled.write(form.MANIFEST, "{", 0)
    spoiled.close()
    tab = Tab(tmp_path)
    runs = {run["name"]: run for run in tab.ask("runs")["runs"]}
    assert set(runs) == {"run", "newer", "spoiled"}
    assert runs["run"]["problem"] is None
    assert "version 2, of a newer convscope; this one reads up to 1: install the newer one" in runs["newer"]["problem"]
    assert "spoiled holds no record of convscope" in runs["spoiled"]["problem"]
    for name in ("newer", "spoiled", "plain"):
        answer = tab.get("run", run=name)
        assert answer.status_code == 404
        assert len(strict(answer.get_data(as_text=True))["error"]) > 40
    assert Tab(tmp_path / "plain").ask("runs") == {"runs": []}


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.999])
def test_a_cut_file_gives_the_checks_that_are_whole(tmp_path: Path, share: float) -> None:
    (sample,) = SAMPLE.glob("*tfevents*")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / sample.name).write_bytes(sample.read_bytes()[: int(share * sample.stat().st_size)])
    tab = Tab(tmp_path)
    found = tab.ask("runs")["runs"]
    whole = read_runs(tmp_path)
    assert [run["checks"] for run in found] == [len(run.steps) for run in whole.values()]
    for run in found:
        assert tab.ask("run", run=run["name"])["steps"] == whole["run"].steps


def test_a_sampled_record_still_reads(tmp_path: Path) -> None:
    """A user may ask TensorBoard to keep few steps; what was dropped is null."""
    checks = Checks(tmp_path, [4, 4])
    for step in range(30):
        checks.write(step)
    tab = Tab(tmp_path, samples=10)
    (run,) = tab.ask("runs")["runs"]
    assert run["checks"] == 10
    for family in tab.ask("run", run=run["name"])["families"]:
        for quantity in family["quantities"]:
            asked = {"run": run["name"], "family": family["name"], "quantity": quantity["name"]}
            assert len(tab.ask("values", **asked)["values"]) == 10
        for layer in family["filters"]:
            tab.ask("filters", run=run["name"], family=family["name"], layer=layer)


def test_the_users_curves_without_our_own(tmp_path: Path) -> None:
    sampled(tmp_path)
    with SummaryWriter(str(tmp_path / "run")) as writer:
        for step in range(3):
            for tag in ("val_loss", "accuracy", "probe/mine", "probe/accuracy/net.conv1", "zz_convscope/errors"):
                writer.add_scalar(tag, step / 2, step)
            writer.add_scalar("loss", float("nan"), step)
    tab = Tab(tmp_path)
    assert tab.ask("curves", run="run") == {"tags": ["loss", "val_loss", "accuracy", "probe/mine"]}
    assert tab.ask("curve", run="run", tag="val_loss") == {"steps": [0, 1, 2], "values": [0.0, 0.5, 1.0]}
    assert tab.ask("curve", run="run", tag="loss") == {"steps": [0, 1, 2], "values": [None] * 3}


def test_only_reading_is_allowed(tab: Tab) -> None:
    from werkzeug.test import Client

    answer = Client(tab.apps["/runs"]).post("/")
    assert (answer.status_code, "only GET" in answer.get_data(as_text=True)) == (405, True)


def test_the_script_is_served_and_its_copies_are_known(tab: Tab) -> None:
    answer = tab.get("index.js")
    assert answer.content_type.startswith("text/javascript")
    assert b"render" in answer.data
    assert tab.get("index.js", {"If-None-Match": answer.headers["ETag"]}).status_code == 304
    assert tab.plugin.frontend_metadata().es_module_path == "/index.js"


def test_an_overview_is_the_same_from_files_and_from_the_provider(tab: Tab) -> None:
    run = read_run(SAMPLE)
    found, expected = tab.ask("run", run="run"), strict(as_json(overview(run, "run", "")))
    for family in [*found["families"], *expected["families"]]:
        family["arrays"] = sorted(family["arrays"])
    assert found | {"revision": ""} == expected
    assert is_own(run, "probe/depth")
    assert not is_own(run, "train/loss")
