"""Looks at training that are put together once per check, for all who ask."""

from __future__ import annotations

from abc import ABC, abstractmethod


class SinceLastCheck(ABC):
    """What was looked at since the last check, as values by tag; the record and the rules of a check see the same."""

    def __init__(self) -> None:
        self._found: dict[str, float] | None = None  # until it is taken

    @abstractmethod
    def _summary(self) -> dict[str, float]:
        """Values by tag of what was looked at, which is forgotten; nothing where there was nothing to look at."""

    def peek(self) -> dict[str, float]:
        """Values by tag since the last :meth:`take`."""
        if self._found is None:
            self._found = self._summary()
        return self._found

    def take(self) -> dict[str, float]:
        """As :meth:`peek`, and begin again."""
        found, self._found = self.peek(), None
        return found
