"""Alert sinks against a real file system, a process that is killed, and servers that hang, refuse and fail."""

from __future__ import annotations

import doctest
import importlib
import json
import math
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from convscope.loggers import JsonlSink, WebhookSink, alerts_markdown, read_jsonl


@pytest.mark.parametrize("name", ["alerts", "webhook"])
def test_examples_run(name: str) -> None:
    assert doctest.testmod(importlib.import_module(f"convscope.loggers.{name}")).failed == 0


# JSON lines.


def test_lines_are_json_one_a_record(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path / "new" / "alerts.jsonl", key=("n",))
    records = [{"n": n, "text": "ä\n|", "values": {"x": 0.5}} for n in range(3)]
    for record in records:
        assert sink.write(record)
    assert [json.loads(line) for line in (tmp_path / "new" / "alerts.jsonl").read_text("utf-8").splitlines()] == records


def test_numbers_that_json_lacks_are_strings(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path / "a.jsonl", key=("n",))
    sink.write({"n": 1, "values": {"x": math.nan, "y": [math.inf]}})
    assert read_jsonl(tmp_path / "a.jsonl")[0]["values"] == {"x": "nan", "y": ["inf"]}


def test_a_record_is_written_once_by_its_key(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    assert [JsonlSink(path, key=("n", "m")).write({"n": 1, "m": m, "t": t}) for m, t in ((1, 1), (1, 2), (2, 1))] == [
        True, False, True,
    ]  # fmt: skip


def test_two_sinks_of_one_file_see_what_the_other_adds(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    sink, other = JsonlSink(path, key=("n",)), JsonlSink(path, key=("n",))
    assert [sink.write({"n": 0}), other.write({"n": 0}), other.write({"n": 1}), sink.write({"n": 1})] == [
        True, False, True, False,
    ]  # fmt: skip


def test_what_was_read_is_not_read_again(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    sink = JsonlSink(path, key=("n",))
    sink.write({"n": 0})
    sink.write({"n": 1})  # has read the first line
    path.write_bytes(path.read_bytes().replace(b'{"n": 0}', b'{"n": 9}'))
    assert not sink.write({"n": 0})  # the first line was not looked at again
    assert not sink.write({"n": 1})


def test_a_file_that_was_taken_away_is_begun_again(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    sink = JsonlSink(path, key=("n",))
    sink.write({"n": 0})
    sink.write({"n": 1})
    path.unlink()
    assert sink.write({"n": 0})
    assert read_jsonl(path) == [{"n": 0}]


def test_a_line_that_was_cut_off_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    sink = JsonlSink(path, key=("n",))
    sink.write({"n": 1})
    with path.open("a") as file:
        file.write('{"n": 2, "mess')
    sink.write({"n": 3})
    assert read_jsonl(path) == [{"n": 1}, {"n": 3}]


_WRITER = """
import sys
from pathlib import Path
from convscope.loggers import JsonlSink
sink = JsonlSink(Path(sys.argv[1]), key=("n",))
print("ready", flush=True)
for n in range(100000):
    sink.write({"n": n, "text": "x" * 500})
"""


def test_every_line_is_whole_after_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    writer = subprocess.Popen([sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    writer.stdout.readline()
    time.sleep(0.5)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    lines = path.read_text().splitlines()
    assert len(lines) > 1
    assert [json.loads(line)["n"] for line in lines] == list(range(len(lines)))


_FULL = """
import resource, signal, sys
from pathlib import Path
from convscope.loggers import JsonlSink, read_jsonl
path = Path(sys.argv[1])
sink = JsonlSink(path, key=("n",))
sink.write({"n": 1})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 5, resource.RLIM_INFINITY))
try:
    sink.write({"n": 2})
except OSError as error:
    print("OSError", error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
sink.write({"n": 3})
print(read_jsonl(path))
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="no file size limit here")
def test_a_full_disk_is_an_error_and_later_lines_are_whole(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FULL, str(tmp_path / "a.jsonl")], capture_output=True, text=True, check=True
    )
    assert "OSError" in done.stdout
    assert done.stdout.strip().endswith("[{'n': 1}, {'n': 3}]")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_device_that_is_full_is_an_error(tmp_path: Path) -> None:
    os.symlink("/dev/full", tmp_path / "a.jsonl")
    with pytest.raises(OSError):
        JsonlSink(tmp_path / "a.jsonl", key=("n",))._append(os.open("/dev/full", os.O_WRONLY), "x")


# Markdown.


def test_the_list_holds_what_names_from_outside_may_hold() -> None:
    listed = alerts_markdown([{"rule": "a", "message": "layer_1|<b> *x*\nnext"}, {"rule": "b", "message": "later."}])
    first, second = listed.splitlines()
    assert "layer\\_1" in first
    assert "<b>" not in listed
    assert second.endswith(": later\\. *b*")
    assert alerts_markdown([]) == "No alerts so far."


def test_the_list_says_when_incidents_began_and_ended() -> None:
    opened = {"epoch": 1}
    record = {"severity": "critical", "rule": "a", "text": "It broke.", "opened": opened, "closed": None}
    assert alerts_markdown([record]) == "- **critical**, open since epoch 1: It broke\\. *a*"
    over = record | {"closed": {"epoch": 3}, "ending": "the values are back"}
    assert alerts_markdown([over]).startswith("- **critical**, epoch 1 to epoch 3, the values are back: ")


# Webhook.


class Server:
    """A server that answers with the statuses it is given, the last for ever; None hangs."""

    def __init__(self, *statuses: int | None) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.release = threading.Event()
        outer, answers = self, list(statuses)

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                outer.headers.append(dict(self.headers))
                status = answers.pop(0) if len(answers) > 1 else answers[0]
                if status is None:
                    outer.release.wait(20)
                    return
                self.send_response(status)
                if status in (301, 302, 307):
                    self.send_header("Location", f"{outer.url}/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *arguments: Any) -> None:
                return

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/hook/secret-token"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self.release.set()
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    running = Server(*request.param)
    yield running
    running.stop()


def sink(url: str, reports: list[str], **changes: Any) -> WebhookSink:
    return WebhookSink(url, **{"timeout": 2.0, "pause": 0.01, "report": reports.append, **changes})


@pytest.mark.parametrize("server", [(200,)], indirect=True)
def test_records_arrive_in_order_with_their_headers(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN_FOR_TEST", "Bearer hidden")
    reports: list[str] = []
    hook = sink(server.url, reports, headers={"Authorization": "env:TOKEN_FOR_TEST"})
    for n in range(5):
        hook.send({"n": n, "x": math.nan})
    hook.close()
    assert [body["n"] for body in server.bodies] == list(range(5))
    assert server.bodies[0]["x"] == "nan"
    assert {h["Authorization"] for h in server.headers} == {"Bearer hidden"}
    assert server.headers[0]["Content-Type"] == "application/json"
    assert reports == []


@pytest.mark.parametrize("server", [(500, 503, 200)], indirect=True)
def test_server_errors_are_tried_again(server: Server) -> None:
    reports: list[str] = []
    hook = sink(server.url, reports)
    hook.send({"n": 1})
    hook.close()
    assert (len(server.bodies), reports) == (3, [])


@pytest.mark.parametrize("server", [(500,)], indirect=True)
def test_a_server_that_always_fails_is_reported_once_and_without_secrets(server: Server) -> None:
    reports: list[str] = []
    hook = sink(server.url, reports, attempts=2, headers={"Authorization": "hidden"})
    hook.send({"n": 1})
    hook.send({"n": 2})
    hook.close()
    assert len(server.bodies) == 4
    assert len(reports) == 1
    assert "answered 500" in reports[0]
    assert not any(secret in reports[0] + repr(hook) for secret in ("secret-token", "hidden", "/hook"))


@pytest.mark.parametrize("server", [(404,)], indirect=True)
def test_other_answers_are_not_tried_again(server: Server) -> None:
    reports: list[str] = []
    hook = sink(server.url, reports)
    hook.send({"n": 1})
    hook.close()
    assert len(server.bodies) == 1
    assert "answered 404" in reports[0]


@pytest.mark.parametrize("server", [(302,)], indirect=True)
def test_redirects_are_not_followed(server: Server) -> None:
    reports: list[str] = []
    hook = sink(server.url, reports)
    hook.send({"n": 1})
    hook.close()
    assert len(server.bodies) == 1
    assert "answered 302" in reports[0]


@pytest.mark.parametrize("server", [(None,)], indirect=True)
def test_a_server_that_hangs_holds_up_nobody(server: Server) -> None:
    reports: list[str] = []
    hook = sink(server.url, reports, timeout=30.0)
    began = time.monotonic()
    for n in range(150):
        hook.send({"n": n})
    assert time.monotonic() - began < 1.0
    hook.close(patience=0.3)
    assert time.monotonic() - began < 2.0
    assert len(reports) == 1


def test_a_server_that_refuses_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Server(200)
    server.stop()
    reports: list[str] = []
    hook = sink(server.url, reports)
    hook.send({"n": 1})
    hook.close()
    assert "cannot be reached" in reports[0]
    assert "secret" not in reports[0]


@pytest.mark.parametrize("server", [(200,)], indirect=True)
def test_it_can_be_used_again_after_close(server: Server) -> None:
    hook = sink(server.url, [])
    hook.close()
    for n in range(2):
        hook.send({"n": n})
        hook.close()
    assert [body["n"] for body in server.bodies] == [0, 1]


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ({"url": "http://example.org/secret-token"}, "host example.org"),
        ({"url": "ftp://127.0.0.1/secret-token"}, "ftp:"),
        ({"url": "secret-token"}, "names no host"),
        ({"url": "env:NO_SUCH_VARIABLE_HERE"}, "NO_SUCH_VARIABLE_HERE"),
        ({"url": 3}, "int"),
        ({"url": "https://example.org", "headers": {"A": "env:NO_SUCH_VARIABLE_HERE"}}, "headers['A']"),
        ({"url": "https://example.org", "timeout": 0}, "timeout=0"),
        ({"url": "https://example.org", "attempts": 0}, "attempts=0"),
        ({"url": "https://example.org", "pause": -1}, "pause=-1"),
    ],
)
def test_bad_arguments_are_named_and_secrets_not(arguments: dict[str, Any], names: str) -> None:
    with pytest.raises(ValueError) as error:
        WebhookSink(**arguments)
    assert names in str(error.value)
    assert "secret-token" not in str(error.value)
