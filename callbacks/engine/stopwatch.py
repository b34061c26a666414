"""Time that checks take: seconds each, share of training time, and wait before the next one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """A stopwatch around checks.

    Args:
        max_overhead: Share of training time that checks may take, None for no bound.

    Attributes:
        seconds: What the last check took, without the logging of its scalars: this is one of them.
        overhead: ``seconds`` as a share of the training time before.
        parts: What the parts of the last check took, the logging too: their sum is what the user waited.
    """

    def __init__(self, max_overhead: float | None) -> None:
        self.max_overhead = max_overhead
        self.seconds: float | None = None
        self.overhead: float | None = None
        self.parts: dict[str, float] = {}
        self._began = self._ended = time.perf_counter()

    def start_of_training(self) -> None:
        """Start counting training time."""
        self._ended = time.perf_counter()

    def begin(self) -> None:
        """A check begins."""
        self._began, self.parts = time.perf_counter(), {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the block's time under ``name``."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.parts[name] = self.parts.get(name, 0.0) + time.perf_counter() - began

    def count_before(self, name: str, seconds: float) -> None:
        """Count time under ``name`` that the check under way took before it began."""
        self._began -= seconds
        self.parts[name] = self.parts.get(name, 0.0) + seconds

    @property
    def so_far(self) -> float:
        """Seconds that the check under way has taken."""
        return time.perf_counter() - self._began

    def end(self) -> None:
        """End the time of a check: ``seconds`` and ``overhead`` are those of this check."""
        now = time.perf_counter()
        trained = self._began - self._ended
        self.seconds, self._ended = now - self._began, now
        self.overhead = self.seconds / trained if trained > 0 else None

    def wait(self) -> float:
        """Seconds of training still to come before the next check keeps to ``max_overhead``; 0 if it may come now."""
        if self.max_overhead is None or self.seconds is None:
            return 0.0
        return max(0.0, self.seconds / self.max_overhead - (time.perf_counter() - self._ended))
