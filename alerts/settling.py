"""Settling: tells if a series that an alert named is back at its expected value, or has come to rest elsewhere."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

TOLERANCE = 0.25  # share of the way from the expected value to the worst one
REST = 3  # number of values that must lie within that distance of each other


@dataclass
class Excursion:
    """A series after an alert named it.

    ``back``: it has come back to within a quarter of its way from ``expected`` to its worst value, or is beyond
    ``expected`` on the good side. ``settled``: its last three values lie within a quarter of that way of each other. A
    value that is not finite is neither.
    """

    expected: float
    worst: float
    recent: list[float] = field(default_factory=list)

    def take(self, value: float) -> None:
        """Take in a new value of the series."""
        self.recent = [*self.recent, value][-REST:]
        if math.isfinite(value) and self._away(value) > self._away(self.worst):
            self.worst = value

    @property
    def back(self) -> bool:
        """Return whether the series is where it was expected."""
        if not self.recent or not math.isfinite(self.recent[-1]):
            return False
        return not math.isfinite(self._size) or self._away(self.recent[-1]) <= TOLERANCE * self._size

    @property
    def settled(self) -> bool:
        """Return whether the series has come to rest."""
        if len(self.recent) < REST or not all(map(math.isfinite, self.recent)):
            return False
        return max(self.recent) - min(self.recent) <= TOLERANCE * self._size

    @property
    def _size(self) -> float:
        return self._away(self.worst)

    def _away(self, value: float) -> float:
        """Distance from ``expected`` on the bad side, NaN if nothing finite was expected or found."""
        return math.copysign(1.0, self.worst - self.expected) * (value - self.expected)

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)
