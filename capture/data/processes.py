"""Several processes that come to one result: a step is done by all, and where it fails on one, it fails on all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

Gather = Callable[[Any], list[Any]]
"""Collects one object from every process, in the order of their ranks; every process must call it."""

T = TypeVar("T")


def alone(value: Any) -> list[Any]:
    """What ``gather`` is where there is one process."""
    return [value]


@dataclass(frozen=True)
class Processes:
    """This process among all; ``Processes()`` is one alone."""

    rank: int = 0
    size: int = 1
    gather: Gather = alone  # no lambda: a held-out set goes to spawned processes

    def each(self, make: Callable[[], T]) -> list[T]:
        """What ``make()`` returns on every process, which is sent around.

        Raises:
            Exception: What ``make`` raises here, or a ValueError with the message of what it raised elsewhere.
        """
        failure: Exception | None = None
        value = None
        try:
            value = make()
        except Exception as error:
            failure = error
        found = self.gather((None if failure is None else str(failure), value))
        for message, _ in found:
            if message is not None:
                raise failure or ValueError(message)
        return [each for _, each in found]
