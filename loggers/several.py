"""All loggers of a run as one backend: each picture, drawn once, goes to all; one that fails does not affect others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy.typing as npt

from convscope.loggers.backend import Backend, Layout, Pixels, check_picture, claim

TRIES = 3
"""Failures after which a logger is left alone until the next check: each may be a long wait for a server."""


class AllLoggers(Backend):
    """Sends histograms, pictures and texts to several backends.

    Args:
        backends: By the name under which a failure is reported.
        report: Called with a name and the exception if a backend fails.
    """

    def __init__(self, backends: Mapping[str, Backend], report: Callable[[str, Exception], None]) -> None:
        self._backends, self._report = dict(backends), report
        self._kinds: dict[str, str] = {}
        self._failures = dict.fromkeys(self._backends, 0)

    @classmethod
    def of(cls, logger: Any) -> Backend | None:
        return None

    def begin(self) -> None:
        """Begin a check: loggers that failed in the previous one are tried again."""
        self._failures = dict.fromkeys(self._backends, 0)

    def drop(self, name: str) -> None:
        """Leave a backend alone until the next check."""
        self._failures[name] = TRIES

    def histogram(self, tag: str, values: npt.ArrayLike, step: int) -> None:
        """Write a histogram to all.

        Raises:
            ValueError: if `tag` was written as another kind.
        """
        claim(self._kinds, tag, "histogram")
        self._each(lambda backend: backend.histogram(tag, values, step))

    def image(self, tag: str, array: Pixels, step: int) -> None:
        """Write a picture to all.

        Raises:
            ValueError: if `array` is not `(H, W, 3)` of uint8, or `tag` was written as another kind.
        """
        check_picture(tag, array)
        claim(self._kinds, tag, "image")
        self._each(lambda backend: backend.image(tag, array, step))

    def text(self, tag: str, markdown: str, step: int) -> None:
        """Write Markdown to all.

        Raises:
            ValueError: if `tag` was written as another kind.
        """
        claim(self._kinds, tag, "text")
        self._each(lambda backend: backend.text(tag, markdown, step))

    def layout(self, charts: Layout) -> None:
        self._each(lambda backend: backend.layout(charts))

    @property
    def spaces(self) -> dict[str, float]:
        """Free bytes, by backend."""
        return {name: backend.free_space for name, backend in self._backends.items()}

    @property
    def usable(self) -> bool:
        """Return whether any backend is left in this check."""
        return any(failures < TRIES for failures in self._failures.values())

    def _each(self, write: Callable[[Backend], None]) -> None:
        for name, backend in self._backends.items():
            if self._failures[name] < TRIES:
                try:
                    write(backend)
                except Exception as error:
                    self._failures[name] += 1
                    self._report(name, error)
