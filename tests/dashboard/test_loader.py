"""The entry point: it never breaks the ``tensorboard`` command; the real command with and without fast loading."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
from tensorboard.plugins.base_plugin import TBContext

from convscope.dashboard.loader import Loader
from convscope.dashboard.plugin import ConvscopePlugin
from tests.support.records import Checks
from tests.support.tensorboards import serve, with_entry_point

SAMPLE = Path(__file__).parent / "sample_v1"
CHECKS = 130  # more than the hundred or ten that TensorBoard keeps by default


def test_importing_the_loader_imports_neither_torch_nor_lightning_nor_the_plugin() -> None:
    code = (
        "import sys, tensorboard.plugins.base_plugin\n"
        "before = set(sys.modules)\n"
        "from convscope.dashboard.loader import Loader\n"
        "print(sorted(name for name in set(sys.modules) - before if not name.startswith('importlib')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "numpy" not in done.stdout
    mine = {"convscope", "convscope.dashboard", "convscope.dashboard.loader"}
    heavy = ("torch", "lightning", "pytorch_lightning", "convscope.dashboard.plugin")
    assert mine <= set(json.loads(done.stdout.replace("'", '"')))
    assert not [name for name in heavy if f"'{name}'" in done.stdout]


def test_every_check_is_kept_unless_the_user_says_otherwise() -> None:
    flags = Namespace(samples_per_plugin={"images": 5})
    Loader().fix_flags(flags)
    assert flags.samples_per_plugin == {"images": 5, "convscope": 0}
    flags = Namespace(samples_per_plugin={"convscope": 7})
    Loader().fix_flags(flags)
    assert flags.samples_per_plugin == {"convscope": 7}


@pytest.mark.parametrize("flags", [Namespace(), Namespace(samples_per_plugin=""), Namespace(samples_per_plugin=None)])
def test_flags_of_another_form_are_left_alone(flags: Namespace, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="tensorboard"):
        Loader().fix_flags(flags)
    assert "--samples_per_plugin convscope=0" in caplog.text


def test_a_tab_that_cannot_be_loaded_is_left_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert isinstance(Loader().load(TBContext()), ConvscopePlugin)
    unusable: Any = None
    monkeypatch.setitem(sys.modules, "convscope.dashboard.plugin", unusable)
    with caplog.at_level(logging.WARNING, logger="tensorboard"):
        assert Loader().load(TBContext()) is None
    assert "the tab could not be loaded, all others work" in caplog.text


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Many checks, the recorded run, and one that is cut off."""
    folder = tmp_path_factory.mktemp("logs") / "runs"
    checks = Checks(folder / "many", [3, 3])
    for step in range(CHECKS):
        checks.write(step)
    shutil.copytree(SAMPLE, folder / "sample")
    (folder / "cut").mkdir()
    (sample,) = SAMPLE.glob("*tfevents*")
    data = sample.read_bytes()
    (folder / "cut" / sample.name).write_bytes(data[: int(0.9 * len(data))])
    return folder


@pytest.mark.parametrize(("mode", "prefix"), [("true", "/some/where"), ("false", "")])
def test_the_tab_of_a_real_tensorboard(logs: Path, mode: str, prefix: str, tmp_path: Path) -> None:
    if mode == "true":
        pytest.importorskip("tensorboard_data_server", reason="fast loading needs TensorBoard's data server")
    with serve(logs, f"--load_fast={mode}", entry_points=tmp_path, prefix=prefix) as server:
        server.wait(runs=3)
        many = next(run["name"] for run in server.wait(runs=1, checks=CHECKS) if run["name"].startswith("many"))
        _, _, body = server.fetch("plugins_listing")
        listed = json.loads(body)["convscope"]
        assert (listed["enabled"], listed["tab_name"]) == (True, "convscope")
        assert listed["loading_mechanism"]["module_path"].endswith("/data/plugin/convscope/index.js")
        whole = server.ask("run", run=many)
        assert whole["steps"] == list(range(CHECKS))
        table = server.ask("values", run=many, family="probe", quantity="quantity_0")["values"]
        assert (len(table), len(table[0])) == (CHECKS, 2)
        assert None not in table[0]
        expected = json.loads((SAMPLE / "expected.json").read_text())
        assert server.ask("run", run="sample")["steps"] == expected["steps"]
        asked = {"run": "sample", "family": "prediction", "check": 0}
        assert server.ask("array", **asked, name="thumbnails")["value"][0].startswith("iVBOR")
        assert len(server.ask("array", **asked, name="probability")["value"]) == 2
        layer = expected["layers"][0]
        found = server.ask("correlation", run="sample", family="correlation", layer=layer)
        assert found["order"] == expected["order"]
        assert server.fetch("plugin/convscope/run", run="nowhere")[0] == 404
        _, headers, body = server.fetch("plugin/convscope/index.js", {"Accept-Encoding": "gzip"})
        assert headers["Content-Encoding"] == "gzip"
        assert b"render" in body
        _, headers, _ = server.fetch("plugin/convscope/run", run="sample")
        status, _, _ = server.fetch("plugin/convscope/run", {"If-None-Match": headers["ETag"]}, run="sample")
        assert status == 304
        assert "Traceback" not in server.log


def test_a_check_that_is_written_meanwhile_appears(tmp_path: Path) -> None:
    checks = Checks(tmp_path / "runs", [3])
    checks.write(0)
    with serve(tmp_path / "runs", entry_points=tmp_path / "paths") as server:
        (before,) = server.wait(runs=1)
        checks.write(5)
        (after,) = server.wait(runs=1, checks=2)
        assert after["revision"] != before["revision"]
        assert server.ask("run", run=after["name"])["steps"] == [0, 5]


def test_tensorboard_starts_without_a_run(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    with serve(tmp_path / "runs", entry_points=tmp_path / "paths") as server:
        server.wait(runs=0)
        assert server.ask("runs") == {"runs": []}


def test_tensorboard_starts_although_the_tab_cannot_be_loaded(tmp_path: Path) -> None:
    """A tab whose parts are broken costs a warning, not the command."""
    environment = with_entry_point(tmp_path)
    code = (
        "import sys; sys.modules['convscope.dashboard.plugin'] = None\n"
        "from tensorboard import program\n"
        "board = program.TensorBoard()\n"
        "board.configure(('tensorboard', '--logdir', '.'))\n"
        "(tab,) = [one for one in board.plugin_loaders if type(one).__module__ == 'convscope.dashboard.loader']\n"
        "print(board.flags.samples_per_plugin, tab.load(None))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.strip() == "{'convscope': 0} None", done.stderr
    assert "the tab could not be loaded, all others work" in done.stderr
