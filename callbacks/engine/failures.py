"""Guard around everything a check runs: a failure is logged once and counted, and training goes on."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

log = logging.getLogger("convscope")


class Failures:
    """Counts failures and logs each kind once, with its traceback.

    Args:
        raising: Let exceptions through instead.
    """

    def __init__(self, raising: bool) -> None:
        self.raising = raising
        self.count = 0
        self._logged: set[tuple[str, str]] = set()

    @contextmanager
    def guard(self, what: str) -> Iterator[None]:
        """Run a block; an exception in it (not a KeyboardInterrupt) is recorded and ends the block alone."""
        try:
            yield
        except Exception as error:
            self.record(what, error)

    def record(self, what: str, error: Exception) -> None:
        """Count a failure and log it, the first of its kind with its traceback."""
        self.count += 1
        if self.raising:
            raise error
        kind = (what, type(error).__name__)
        if kind not in self._logged:
            self._logged.add(kind)
            log.error(
                "convscope: %s failed (%s: %s); training goes on without it. Further failures of this kind are "
                "counted in zz_convscope/errors and not logged again.",
                what, type(error).__name__, error, exc_info=error,
            )  # fmt: skip

    def note(self, what: str) -> None:
        """Count and log, once, a finding that is wrong without an exception (a layer that gives NaN)."""
        self.count += 1
        if (what, "") not in self._logged:
            self._logged.add((what, ""))
            log.warning("convscope: %s", what)
