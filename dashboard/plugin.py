"""Back end of the TensorBoard tab: answers over HTTP, from records that TensorBoard's data provider reads."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tensorboard import plugin_util
from tensorboard.backend import http_util
from tensorboard.plugins import base_plugin
from werkzeug import Request, Response

import convscope
from convscope.dashboard import answers
from convscope.dashboard.form import PLUGIN
from convscope.dashboard.json_values import as_json
from convscope.dashboard.provider import Asking, ProviderTensors, SeriesCache
from convscope.dashboard.record import Run

SCRIPT = Path(__file__).parent / "static" / "index.js"
_JSON, _JAVASCRIPT, _PNG = "application/json", "text/javascript", "image/png"


class OpenRun:
    """A run that was asked for before: its reader, as of a revision; one request at a time."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lock = threading.Lock()
        self._revision = ""
        self._tensors: ProviderTensors | None = None
        self._run: Run | None = None
        self._problem: str | None = None

    def at(self, asking: Asking, revision: str, cache: SeriesCache) -> Run:
        """The run as of a revision.

        Raises:
            ValueError: if its record cannot be read, with one sentence.
        """
        if revision != self._revision:
            self._run, self._problem = None, None
            self._tensors = ProviderTensors(asking, self.name, cache)
            try:
                self._run = Run(self.name, self._tensors)
            except ValueError as error:
                self._problem = str(error)
            self._revision = revision
        if self._run is None or self._tensors is None:
            raise ValueError(self._problem)
        self._tensors.asking = asking
        return self._run


class ConvscopePlugin(base_plugin.TBPlugin):
    """The tab "convscope"."""

    plugin_name = PLUGIN

    def __init__(self, context: base_plugin.TBContext) -> None:
        self._provider = context.data_provider
        self._cache = SeriesCache()
        self._open: dict[tuple[str, str], OpenRun] = {}

    def get_plugin_apps(self) -> dict[str, Callable[..., Any]]:
        """The routes."""
        whole = {"/index.js": self._script, "/runs": self._runs, "/curves": self._curves, "/curve": self._curve}
        about = {f"/{name}": self._about(name) for name in ("run", *answers.ANSWERS)}
        return {path: _app(answer) for path, answer in (whole | about).items()}

    def is_active(self) -> bool:
        """False, as TensorBoard shows the tab by itself once it finds tensors of the plugin's name."""
        return False

    def frontend_metadata(self) -> base_plugin.FrontendMetadata:
        """The script that TensorBoard loads into the tab."""
        return base_plugin.FrontendMetadata(es_module_path="/index.js", tab_name=PLUGIN)

    def _script(self, request: Request) -> Response:
        return _respond(request, SCRIPT.read_bytes(), _JAVASCRIPT)

    def _asking(self, request: Request) -> Asking:
        environ = request.environ
        return Asking(self._provider, plugin_util.context(environ), plugin_util.experiment_id(environ))

    def _runs(self, request: Request) -> Response:
        asking = self._asking(request)
        revisions = {} if self._provider is None else asking.revisions()
        found = [self._listed(asking, name, revision) for name, revision in revisions.items()]
        return _respond(request, as_json({"runs": found}), _JSON)

    def _listed(self, asking: Asking, name: str, revision: str) -> dict[str, Any]:
        opened = self._opened(asking, name)
        with opened.lock:
            try:
                checks, problem = len(opened.at(asking, revision, self._cache).steps), None
            except ValueError as error:
                checks, problem = 0, str(error)
        return {"name": name, "checks": checks, "revision": revision, "problem": problem}

    def _opened(self, asking: Asking, name: str) -> OpenRun:
        return self._open.setdefault((asking.experiment, name), OpenRun(name))

    def _about(self, route: str) -> Callable[[Request], Response]:
        """Answer about one run; a browser that has the answer as of this revision is told so at once."""

        def answer(request: Request) -> Response:
            asking, name, revision = self._named(request)
            etag = _etag(f"{route}?{sorted(request.args.items())}@{revision} {convscope.__version__}")
            if etag in request.if_none_match:
                return _unchanged(etag)
            opened = self._opened(asking, name)
            with opened.lock:
                run = opened.at(asking, revision, self._cache)
                if route == "run":
                    found: Any = answers.overview(run, name, revision)
                else:
                    found = answers.ANSWERS[route](run, request.args)
            content, kind = (found, _PNG) if isinstance(found, bytes) else (as_json(found), _JSON)
            return _respond(request, content, kind, etag)

        return answer

    def _named(self, request: Request) -> tuple[Asking, str, str]:
        """The run that is asked for, and its revision."""
        asking, name = self._asking(request), request.args.get("run", "")
        revisions = {} if self._provider is None else asking.revisions()
        if name not in revisions:
            raise answers.NotThereError(
                f"run={name!r} has no data of convscope: train with its callbacks, then wait for the first check"
            )
        return asking, name, revisions[name]

    def _curves(self, request: Request) -> Response:
        asking, name, revision = self._named(request)
        opened = self._opened(asking, name)
        with opened.lock:
            run = opened.at(asking, revision, self._cache)
            tags = [tag for tag in asking.curves(name) if not answers.is_own(run, tag)]
        return _respond(request, as_json({"tags": answers.losses_first(tags)}), _JSON)

    def _curve(self, request: Request) -> Response:
        asking, name, _ = self._named(request)
        tag = request.args.get("tag", "")
        steps, found = asking.curve(name, tag)
        if not steps:
            raise answers.NotThereError(
                f"tag={tag!r} is not a scalar of this run: there is /curves with those there are"
            )
        return _respond(request, as_json({"steps": steps, "values": found}), _JSON)


def _app(answer: Callable[[Request], Response]) -> Callable[..., Any]:
    """A WSGI application; whatever goes wrong becomes one sentence as JSON."""

    @Request.application
    def app(request: Request) -> Response:
        if request.method not in ("GET", "HEAD"):
            return _refused(request, 405, "only GET is answered here")
        try:
            return answer(request)
        except (answers.NotThereError, ValueError) as error:
            return _refused(request, 404, str(error))
        except Exception as error:
            logging.getLogger("tensorboard").exception("convscope: %s", request.path)
            return _refused(request, 500, f"this could not be read ({type(error).__name__}: {error})")

    return app


def _refused(request: Request, code: int, sentence: str) -> Response:
    refusal: Response = http_util.Respond(request, as_json({"error": sentence}), _JSON, code=code)
    return refusal


def _respond(request: Request, content: str | bytes, kind: str, etag: str = "") -> Response:
    tag = etag or _etag(content)
    if tag in request.if_none_match:
        return _unchanged(tag)
    answer: Response = http_util.Respond(request, content, kind, headers=[("ETag", f'"{tag}"')])
    return answer


def _unchanged(etag: str) -> Response:
    return Response(status=304, headers=[("ETag", f'"{etag}"'), ("Cache-Control", "no-cache, must-revalidate")])


def _etag(content: str | bytes) -> str:
    data = content.encode() if isinstance(content, str) else content
    return hashlib.blake2b(data, digest_size=12).hexdigest()
