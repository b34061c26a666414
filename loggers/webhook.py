"""Webhook for alerts, in the background: a server that hangs, refuses or fails never delays training."""

from __future__ import annotations

import ipaddress
import json
import os
import queue
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from convscope._arguments import number, whole_number
from convscope.loggers.alerts import _plain

QUEUE = 100
_STOP = object()


def _silent(sentence: str) -> None:
    return


class WebhookSink:
    """Post records as JSON from a separate thread.

    ``send`` only puts a record into a queue. The thread tries each ``attempts`` times, waiting ``pause`` seconds, then
    twice that, and so on; server errors (5xx), 429 and failures of the connection are tried again, other answers are
    not. Redirects are not followed, since they could send the record elsewhere. The address and the headers are
    secrets: reports name only the host.

    Args:
        url: An ``https`` address (``http`` for this machine only), or ``"env:NAME"`` to read it from an environment
            variable, so that no file contains it.
        headers: Headers besides ``Content-Type``; a value may be ``"env:NAME"`` too.
        timeout: Seconds for one attempt, above 0.
        attempts: At least 1.
        pause: Seconds before the second attempt, at least 0.
        report: Called once, with a sentence, at the first failure.

    Raises:
        ValueError: if the address is not accepted, or an argument is out of range; it does not repeat the address.

    Example:
        >>> sink = WebhookSink("https://example.org/hooks/secret")
        >>> sink.host, "secret" in repr(sink)
        ('example.org', False)
        >>> WebhookSink("http://example.org/hooks/secret")
        Traceback (most recent call last):
        ValueError: the webhook's address (host example.org) begins with http:; give an https address
    """

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str] | None = None,
        timeout: float = 5.0,
        attempts: int = 3,
        pause: float = 1.0,
        report: Callable[[str], None] = _silent,
    ) -> None:
        self._url = _checked(_secret(url, "url"))
        self._headers = {name: _secret(value, f"headers[{name!r}]") for name, value in (headers or {}).items()}
        self._timeout = number("timeout", timeout, "seconds", least=0.0, above=True)
        self._attempts = whole_number("attempts", attempts)
        self._pause = number("pause", pause, "seconds", least=0.0)
        self._report, self._reported = report, False
        # Made at the first record: until then the sink can be pickled, as spawned processes need.
        self._queue: queue.Queue[Any]
        self._give_up: threading.Event
        self._thread: threading.Thread | None = None

    def __repr__(self) -> str:
        return f"WebhookSink(host={self.host!r})"

    @property
    def host(self) -> str:
        """The server's name: the only part of the address that is ever shown."""
        return urllib.parse.urlsplit(self._url).hostname or ""

    def send(self, record: Mapping[str, Any]) -> None:
        """Queue ``record``; returns at once. If the queue is full the record is dropped, and that is reported."""
        if self._thread is None:
            self._queue, self._give_up = queue.Queue(QUEUE), threading.Event()
            # A daemon: a server that hangs must not keep the process from ending.
            self._thread = threading.Thread(target=self._work, args=(self._queue, self._give_up), daemon=True)
            self._thread.start()
        try:
            self._queue.put_nowait(json.dumps(_plain(record)).encode("utf-8"))
        except queue.Full:
            self._fail(f"{QUEUE} alerts are waiting already")

    def close(self, patience: float = 10.0) -> None:
        """Wait up to ``patience`` seconds until all queued records are sent, then drop the others."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        until = time.monotonic() + patience
        with suppress(queue.Full):
            self._queue.put(_STOP, timeout=patience)
        thread.join(max(0.0, until - time.monotonic()))
        self._give_up.set()
        if thread.is_alive():
            self._fail(f"it has not answered {patience:g} s after the end of the run")

    def _work(self, waiting: queue.Queue[Any], give_up: threading.Event) -> None:
        while not give_up.is_set():
            item = waiting.get()
            if item is _STOP:
                return
            self._deliver(item, give_up)

    def _deliver(self, body: bytes, give_up: threading.Event) -> None:
        problem: str | None = None
        for attempt in range(self._attempts):
            if attempt and give_up.wait(self._pause * 2 ** (attempt - 1)):
                return
            problem, again = self._post(body)
            if problem is None:
                return
            if not again:
                break
        self._fail(str(problem))

    def _post(self, body: bytes) -> tuple[str | None, bool]:
        """Post once; return the problem, None without one, and whether to try again."""
        headers = {"Content-Type": "application/json", **self._headers}
        try:
            request = urllib.request.Request(self._url, body, headers, method="POST")
            with _OPENER.open(request, timeout=self._timeout):
                return None, False
        except urllib.error.HTTPError as error:
            error.close()
            return f"it answered {error.code}", error.code >= 500 or error.code == 429
        except urllib.error.URLError as error:
            return f"it cannot be reached ({type(error.reason).__name__})", True
        except Exception as error:  # any other error: its text might hold the address
            return f"the request failed ({type(error).__name__})", True

    def _fail(self, problem: str) -> None:
        if not self._reported:
            self._reported = True
            self._report(f"the webhook at {self.host} failed: {problem}; alerts that it does not accept are dropped")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *arguments: Any, **named: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


def _secret(value: str, name: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} of the webhook is a {type(value).__name__}; give a text, or 'env:NAME'")
    if not value.startswith("env:"):
        return value
    variable = value[len("env:") :]
    if variable not in os.environ:
        raise ValueError(
            f"{name} of the webhook is to be read from the environment variable {variable}, which is not set"
        )
    return os.environ[variable]


def _checked(url: str) -> str:
    parts = urllib.parse.urlsplit(url)
    if not parts.hostname:
        raise ValueError("the webhook's address names no host; give one such as https://example.org/hooks/…")
    if parts.scheme != "https" and not (parts.scheme == "http" and _is_local(parts.hostname)):
        raise ValueError(
            f"the webhook's address (host {parts.hostname}) begins with {parts.scheme}:; give an https address"
        )
    return url


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
