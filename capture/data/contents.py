"""Restore what reading changes in a data set besides its generators: counters, caches, lists of read items.

If a loader has workers, only the workers' own copies are changed. Without workers, the data set that is read is the
one that training reads.
"""

from __future__ import annotations

import concurrent.futures
import ctypes
import io
import multiprocessing.process
import sys
import threading
import types
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import numpy as np
import torch

from convscope.capture.state.object_graph import ARRAYS, is_library, named_globals, package_of, reachable, slot_names

_MOST_BYTES = 1 << 20
"""Most bytes of an array or tensor that is copied: a larger one is data, not a counter."""

_ROOM = 1 << 26
"""Most bytes of all copies together."""

_PASSIVE = {"collections", "types", "functools", "argparse", "builtins", "io", "_io", "array", "random"}
"""Modules of the standard library whose objects no other thread or process changes; queues, locks and pools are not."""


_ROUTINES = (types.FunctionType, types.MethodType, types.BuiltinFunctionType)


@contextmanager
def preserved_contents(*roots: Any) -> Iterator[None]:
    """Put back what is reachable from ``roots``: attributes, containers, small arrays, closures, file positions.

    Only objects that changed are written to. Networks that Lightning trains, trainers and callbacks are not touched.
    """
    restore = [put_back for item in _affordable(roots) for put_back in _restorers(item)]
    try:
        yield
    finally:
        for put_back in reversed(restore):
            with suppress(Exception):  # an object that cannot be written to has hardly been changed
                put_back()


def _affordable(roots: tuple[Any, ...]) -> Iterator[Any]:
    """Reachable objects, with only small arrays and tensors, and not too many of these."""
    room = _ROOM
    for item in reachable(*roots, arrays=True, skip=_is_foreign):
        if isinstance(item, ARRAYS):
            size = item.nbytes if isinstance(item, np.ndarray) or item.layout == torch.strided else _ROOM
            if size > min(room, _MOST_BYTES):
                continue
            room -= size
        yield item


def iterators(*roots: Any) -> list[str]:
    """Names of attributes that hold an iterator: reading advances it, and nothing can move it back."""
    found = []
    for item in reachable(*roots, skip=_is_foreign):
        for name, value in (vars(item) if hasattr(item, "__dict__") and not isinstance(item, type) else {}).items():
            if isinstance(value, Iterator) and not isinstance(value, io.IOBase):
                found.append(f"{type(item).__name__}.{name}")
    return found


def _is_foreign(item: Any) -> bool:
    """Return whether an object is not part of a data set, or is changed by something else at the same time."""
    packages = set(map(package_of, type(item).__mro__))
    if packages & {"lightning", "pytorch_lightning", "convscope"}:
        return not any(kind.__name__ == "LightningDataModule" for kind in type(item).__mro__)
    if type(item).__name__.endswith("DataLoaderIter"):
        return True
    own = package_of(type(item))
    return own in sys.stdlib_module_names and own not in _PASSIVE and not _is_shared_value(item)


def _is_shared_value(item: Any) -> bool:
    """Return whether it is a ``multiprocessing.Value`` or ``Array``, or a ctypes object inside one."""
    return type(item).__module__ in ("multiprocessing.sharedctypes", "ctypes") or isinstance(item, ctypes._SimpleCData)


def _restorers(item: Any) -> Iterator[Callable[[], Any]]:
    """Calls that restore one object; none for an object without contents."""
    if isinstance(item, list | deque | bytearray):
        yield partial(_restore_sequence, item, item.copy())
    elif isinstance(item, dict):
        yield partial(_restore_dict, item, dict(item))
    elif isinstance(item, set):
        yield partial(_restore_set, item, set(item))
    elif isinstance(item, np.ndarray) and item.dtype != object:
        yield partial(_restore_array, item, item.copy())
    elif isinstance(item, torch.Tensor) and not item.is_inference() and not item.is_meta:
        yield partial(_restore_tensor, item, item.detach().clone(), item._version)
    elif isinstance(item, types.CellType):
        with suppress(ValueError):  # empty
            yield partial(setattr, item, "cell_contents", item.cell_contents)
    elif isinstance(item, io.IOBase):
        with suppress(Exception):
            yield partial(item.seek, item.tell())
    elif isinstance(item, ctypes._SimpleCData | ctypes.Array | ctypes.Structure):
        yield partial(ctypes.memmove, ctypes.addressof(item), bytes(item), ctypes.sizeof(item))
    yield from _of_names(item)


def _of_names(item: Any) -> Iterator[Callable[[], Any]]:
    """Attributes of an object, of the user's classes and functions, and global variables that the latter name."""
    if isinstance(item, type):
        for name, value in vars(item).items():
            if _is_plain(value) and not name.startswith("__"):
                yield partial(_restore_attribute, item, name, value)
    elif isinstance(item, types.FunctionType) and not is_library(item):
        yield partial(_restore_dict, vars(item), dict(vars(item)))
        yield partial(item.__globals__.update, {k: v for k, v in named_globals(item).items() if _is_plain(v)})
    elif hasattr(item, "__dict__") and not isinstance(item, _ROUTINES) and not _is_at_work(item):
        yield partial(_restore_dict, vars(item), dict(vars(item)))
    for name in slot_names(item):
        with suppress(AttributeError):
            yield partial(_restore_attribute, item, name, getattr(item, name))


def _is_at_work(item: Any) -> bool:
    """Return whether a thread or process of its own may change an object meanwhile."""
    workers = (threading.Thread, multiprocessing.process.BaseProcess, concurrent.futures.Executor)
    return any(isinstance(value, workers) for value in vars(item).values())


def _restore_attribute(owner: Any, name: str, value: Any) -> None:
    if getattr(owner, name, None) is not value:
        setattr(owner, name, value)


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, int | float | complex | str | bytes | tuple | frozenset)


def _restore_sequence(now: Any, before: Any) -> None:
    if len(now) != len(before) or any(a is not b for a, b in zip(now, before, strict=True)):
        now.clear()
        now.extend(before)


def _restore_dict(now: dict[Any, Any], before: dict[Any, Any]) -> None:
    if list(now) != list(before) or any(now[key] is not value for key, value in before.items()):
        now.clear()
        now.update(before)


def _restore_set(now: set[Any], before: set[Any]) -> None:
    if now != before:
        now.clear()
        now.update(before)


def _restore_array(now: np.ndarray, before: np.ndarray) -> None:
    if now.tobytes() != before.tobytes():
        now[...] = before


def _restore_tensor(now: torch.Tensor, before: torch.Tensor, version: int) -> None:
    if now._version != version or not torch.equal(now, before):
        now.detach().copy_(before)
