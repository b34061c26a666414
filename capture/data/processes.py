"""Several processes with one result: a step is done by all, and where it fails on one, it fails on all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

Gather = Callable[[Any], list[Any]]
"""Function that collects one object from every process, in rank order; every process must call it."""

T = TypeVar("T")


def alone(value: Any) -> list[Any]:
    """The ``gather`` of a single process."""
    return [value]


@dataclass(frozen=True)
class Processes:
    """This process among all; ``Processes()`` is a single one."""

    rank: int = 0
    size: int = 1
    gather: Gather = alone  # no lambda: a held-out set goes to spawned processes

    def each(self, make: Callable[[], T]) -> list[T]:
        """Results of ``make()`` on every process, exchanged between all.

        Raises:
            Exception: the one that ``make`` raises here, or a ValueError with its message from another process.
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
