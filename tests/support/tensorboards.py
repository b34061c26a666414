"""TensorBoard with the tab: as an application in this process, and as the command that a user starts."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.plugins.base_plugin import TBContext
from werkzeug.test import Client, TestResponse

from convscope.dashboard.plugin import ConvscopePlugin


class Tab:
    """The tab's back end on a folder of logs, read as TensorBoard reads it without fast loading.

    Args:
        logdir: The folder of logs.
        samples: Steps kept per tag; 0 for all, as the loader asks for.
    """

    def __init__(self, logdir: Path, samples: int = 0) -> None:
        self._multiplexer = EventMultiplexer(tensor_size_guidance={"convscope": samples, "scalars": 1000})
        self._logdir = logdir
        provider = MultiplexerDataProvider(self._multiplexer, str(logdir))
        self.plugin = ConvscopePlugin(TBContext(data_provider=provider, logdir=str(logdir)))
        self.apps = self.plugin.get_plugin_apps()
        self.reload()

    def reload(self) -> None:
        """Read what is new on the disk, as TensorBoard does every few seconds."""
        self._multiplexer.AddRunsFromDirectory(str(self._logdir))
        self._multiplexer.Reload()

    def get(self, route: str, headers: dict[str, str] | None = None, **params: Any) -> TestResponse:
        """Answer to a request."""
        path = f"/data/plugin/convscope/{route}"
        return Client(self.apps[f"/{route}"]).get(path, query_string=params, headers=headers)

    def ask(self, route: str, **params: Any) -> Any:
        """JSON of an answer, which must be strict: no NaN, no infinity."""
        answer = self.get(route, **params)
        assert answer.status_code == 200, answer.get_data(as_text=True)
        return strict(answer.get_data(as_text=True))


def strict(text: str) -> Any:
    """JSON as a browser reads it."""

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)


class Served:
    """A ``tensorboard`` command that is running."""

    def __init__(self, url: str, log: Path) -> None:
        self.url, self._log = url, log

    @property
    def log(self) -> str:
        """What it has printed."""
        return self._log.read_text(errors="replace")

    def fetch(self, path: str, headers: dict[str, str] | None = None, **params: Any) -> tuple[int, Any, bytes]:
        """Status, headers and body of an answer; ``path`` below ``data/``."""
        query = f"?{urllib.parse.urlencode(params)}" if params else ""
        request = urllib.request.Request(f"{self.url}/data/{path}{query}", headers=headers or {})
        try:
            with urllib.request.urlopen(request, timeout=20) as reply:
                body = reply.read()
                packed = reply.headers.get("Content-Encoding") == "gzip"
                return reply.status, reply.headers, gzip.decompress(body) if packed else body
        except urllib.error.HTTPError as error:
            return error.code, error.headers, error.read()

    def ask(self, route: str, **params: Any) -> Any:
        """JSON of an answer of the tab."""
        status, _, body = self.fetch(f"plugin/convscope/{route}", **params)
        assert status == 200, body
        return strict(body.decode())

    def wait(self, runs: int, checks: int = 1, seconds: float = 60.0) -> list[dict[str, Any]]:
        """Wait until so many runs have so many checks; returns them."""
        deadline = time.monotonic() + seconds
        found: Any = None
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, AssertionError):
                found = self.ask("runs")["runs"]
                if sum(run["checks"] >= checks or bool(run["problem"]) for run in found) >= runs:
                    return list(found)
            time.sleep(0.2)
        raise TimeoutError(f"waited {seconds:.0f} s for {runs} runs of {checks} checks, last seen {found}\n{self.log}")


@contextlib.contextmanager
def serve(logdir: Path, *flags: str, entry_points: Path | None = None, prefix: str = "") -> Iterator[Served]:
    """Run ``tensorboard --logdir``.

    Args:
        logdir: The folder of logs.
        flags: Further flags.
        entry_points: Folder into which the tab's entry point is put, for a convscope that is not installed.
        prefix: ``--path_prefix``.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logdir), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--reload_interval", "1", *flags]
    command += [f"--path_prefix={prefix}"] if prefix else []
    log = logdir.parent / f"tensorboard-{port}.log"
    environment = os.environ if entry_points is None else with_entry_point(entry_points)
    with log.open("w") as printed:
        process = subprocess.Popen(command, cwd=logdir, env=environment, stdout=printed, stderr=printed)
    try:
        yield Served(f"http://127.0.0.1:{port}{prefix}", log)
    finally:
        process.terminate()
        process.wait(timeout=10)


def installed() -> bool:
    """Return whether the convscope that is installed tells TensorBoard of its tab."""
    return any(found.name == "convscope" for found in metadata.entry_points(group="tensorboard_plugins"))


def with_entry_point(folder: Path) -> dict[str, str]:
    """Environment of a program that finds the tab's entry point even if this convscope is not installed."""
    paths = os.environ.get("PYTHONPATH", "")
    if not installed():
        found = folder / "convscope-0.dist-info"
        found.mkdir(parents=True, exist_ok=True)
        (found / "METADATA").write_text("Metadata-Version: 2.1\nName: convscope\nVersion: 0\n")
        (found / "entry_points.txt").write_text(
            "[tensorboard_plugins]\nconvscope = convscope.dashboard.loader:Loader\n"
        )
        paths = os.pathsep.join([str(folder), *filter(None, [paths])])
    return os.environ | {"PYTHONPATH": paths}
