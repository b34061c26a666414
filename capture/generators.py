"""Put private random generators back: those that a data set, sampler or module owns itself.

A seed of the global streams does not reach a ``torch.Generator``, a ``numpy.random.Generator`` or a ``random.Random``
that lives in an attribute. Two objects may share one (``random_split`` with a generator, then a sampler with the same),
so that a draw for a check would move the training's own stream.
"""

from __future__ import annotations

import random
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch

_MOST = 10_000
"""Objects looked at: what lies deeper is data, not a generator."""

_LEAVES = (str, bytes, int, float, complex, bool, type(None), type, types.ModuleType, torch.Tensor, np.ndarray)


@contextmanager
def preserved_generators(*roots: Any) -> Iterator[None]:
    """Put back, at the end of the block, the state of every random generator that is reachable from ``roots``."""
    restore = [restorer(generator) for generator in find_generators(*roots)]
    try:
        yield
    finally:
        for put_back in restore:
            put_back()


def find_generators(*roots: Any) -> list[Any]:
    """Every ``torch.Generator``, NumPy and Python generator in attributes, containers, closures and bound methods."""
    found: list[Any] = []
    queue, seen = list(roots), set[int]()
    while queue and len(seen) < _MOST:
        item = queue.pop(0)
        if isinstance(item, _LEAVES) or id(item) in seen:
            continue
        seen.add(id(item))
        if _is_generator(item):
            found.append(item)
        else:
            queue.extend(_parts(item))
    return found


def _is_generator(item: Any) -> bool:
    return isinstance(item, torch.Generator | np.random.Generator | np.random.RandomState | random.Random)


def _parts(item: Any) -> Iterator[Any]:
    """What an object holds: the breadth is cut, since a list of a million paths holds no generator."""
    if isinstance(item, Mapping):
        yield from list(item.values())[:100]
    elif isinstance(item, list | tuple | set | frozenset):
        yield from list(item)[:100]
    elif isinstance(item, types.MethodType):
        yield from (item.__self__, item.__func__)
    elif isinstance(item, types.FunctionType):
        yield from (cell.cell_contents for cell in item.__closure__ or () if _is_filled(cell))
        yield from item.__defaults__ or ()
    else:
        yield from _attributes(item)


def _attributes(item: Any) -> Iterator[Any]:
    yield from vars(item).values() if hasattr(item, "__dict__") else ()
    for kind in type(item).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if (value := getattr(item, name, None)) is not None:
                yield value


def _is_filled(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018 (an empty cell raises)
    except ValueError:
        return False
    return True


def restorer(generator: Any) -> Callable[[], Any]:
    """A call that puts a random generator back into its present state."""
    if isinstance(generator, torch.Generator):
        state = generator.get_state()
        return partial(generator.set_state, state)
    if isinstance(generator, np.random.Generator):
        return restorer(generator.bit_generator)
    if isinstance(generator, np.random.BitGenerator):
        return partial(setattr, generator, "state", generator.state)
    if isinstance(generator, np.random.RandomState):
        return partial(generator.set_state, generator.get_state())
    return partial(generator.setstate, generator.getstate())
