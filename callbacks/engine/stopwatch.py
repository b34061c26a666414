"""Time that checks take: seconds each, share of training time, and when the next one may come."""

from __future__ import annotations

import time


class Stopwatch:
    """A stopwatch around checks.

    Args:
        max_overhead: Share of training time that checks may take, None for no bound.
    """

    def __init__(self, max_overhead: float | None) -> None:
        self.max_overhead = max_overhead
        self.seconds: float | None = None
        self.overhead: float | None = None
        self._began = self._ended = time.perf_counter()

    def start_of_training(self) -> None:
        """Training time counts from here."""
        self._ended = time.perf_counter()

    def begin(self) -> None:
        """A check begins."""
        self._began = time.perf_counter()

    @property
    def so_far(self) -> float:
        """Seconds that the check under way has taken."""
        return time.perf_counter() - self._began

    def end(self) -> None:
        """The check is over: ``seconds`` and ``overhead`` are those of this check."""
        now = time.perf_counter()
        trained = self._began - self._ended
        self.seconds, self._ended = now - self._began, now
        self.overhead = self.seconds / trained if trained > 0 else None

    def wait(self) -> float:
        """Seconds of training still to come before the next check keeps to ``max_overhead``; 0 if it may come now."""
        if self.max_overhead is None or self.seconds is None:
            return 0.0
        return max(0.0, self.seconds / self.max_overhead - (time.perf_counter() - self._ended))
