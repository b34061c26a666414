"""Several processes' parts of one program, as threads that really wait for one another."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

Gather = Callable[[Any], list[Any]]


def together(world: int, part: Callable[[int, Gather], Any]) -> list[Any]:
    """``part(rank, gather)`` for every rank at once; ``gather(value)`` gives everybody's values in rank order.

    A rank that gathers more or less often than the others fails after ten seconds, as a collective would hang.
    """
    values: list[Any] = [None] * world
    barrier = threading.Barrier(world, timeout=10)

    def run(rank: int) -> Any:
        def gather(value: Any) -> list[Any]:
            values[rank] = value
            barrier.wait()
            found = list(values)
            barrier.wait()
            return found

        return part(rank, gather)

    with ThreadPoolExecutor(world) as pool:
        return [future.result() for future in [pool.submit(run, rank) for rank in range(world)]]
